/*!
Who may name whom in the cgfw crate.

Vocabulary is plain data and pure functions. Stages touch the world and never name each
other. Only the wiring knows them all. The table below says it module by module; a module
that is not in it is a finding, so that nobody forgets to decide.

Names are taken from the parsed sources: use trees, paths, and the tokens of macro calls.
What is compiled for tests only is not looked at.
*/

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::sources::files_below;
use crate::workspace::Workspace;

/// One module of the crate, with everything below it.
struct Layer {
    name: &'static str,
    /// The modules beside it that it may name.
    may_name: &'static [&'static str],
    /// Paths that it must not name, nor anything below them.
    must_not: &'static [&'static str],
}

/// Whatever reads a clock, does I/O or belongs to one stage.
const WORLD: &[&str] = &[
    "aya",
    "aya_log",
    "aya_obj",
    "clap",
    "hickory_proto",
    "hickory_server",
    "nix",
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime::now",
    "tokio",
    "tracing",
    "tracing_subscriber",
];

const KERNEL: &[&str] = &["aya", "aya_log", "aya_obj", "cgfw_common"];
const DNS: &[&str] = &["hickory_proto", "hickory_server"];

const LAYERS: &[Layer] = &[
    // Vocabulary.
    layer("policy", &[], WORLD),
    layer("event", &["policy"], WORLD),
    layer("pins", &["event", "policy"], WORLD),
    layer("ledger", &["event", "policy"], WORLD),
    layer("escape", &["event"], WORLD),
    // serde_json writes to what std::io calls writers.
    layer("audit", &["escape", "event", "ledger", "policy"], KERNEL),
    layer("digest", &["audit", "escape", "event", "policy"], WORLD),
    layer(
        "formats",
        &["audit", "digest", "escape", "event", "policy"],
        KERNEL,
    ),
    // Stages.
    layer("cgroup", &["watch"], KERNEL),
    layer("bpf", &["event", "pins", "policy", "watch"], DNS),
    layer("dns", &["event", "pins", "policy"], KERNEL),
    layer("child", &["watch"], KERNEL),
    layer(
        "report",
        &[
            "audit", "digest", "escape", "event", "formats", "ledger", "policy",
        ],
        KERNEL,
    ),
    layer("host", &["event", "policy"], KERNEL),
    layer("logs", &["audit", "escape"], KERNEL),
    layer("otlp", &["audit", "event", "policy"], KERNEL),
    layer("peers", &["event"], KERNEL),
    layer("sources", &["policy"], KERNEL),
    // What several stages wait with.
    layer("watch", &[], KERNEL),
    // Around them.
    layer(
        "cli",
        &["baseline", "formats", "policy"],
        &["aya", "nix", "std::env", "std::fs", "tokio"],
    ),
    layer("exit", &["event"], KERNEL),
    layer(
        "baseline",
        &[
            "audit", "cli", "digest", "escape", "event", "formats", "logs", "policy",
        ],
        KERNEL,
    ),
    layer("check", &["cli", "escape", "policy", "sources"], KERNEL),
    layer(
        "learn",
        &["audit", "cli", "escape", "event", "logs", "policy"],
        KERNEL,
    ),
    layer("run", ALL, &[]),
    layer(
        "why",
        &[
            "audit", "cli", "dns", "escape", "event", "exit", "formats", "host", "pins", "policy",
            "sources",
        ],
        KERNEL,
    ),
];

/// For the wiring.
const ALL: &[&str] = &[
    "audit", "baseline", "bpf", "cgroup", "child", "cli", "digest", "dns", "escape", "event",
    "exit", "formats", "host", "ledger", "otlp", "peers", "pins", "policy", "report", "sources",
    "watch",
];

const fn layer(
    name: &'static str,
    may_name: &'static [&'static str],
    must_not: &'static [&'static str],
) -> Layer {
    Layer {
        name,
        may_name,
        must_not,
    }
}

/// The crate's own name, by which its binary and its tests call it.
const CRATE: &str = "cgfw";

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let source = workspace.root.join(CRATE).join("src");
    let mut findings = Vec::new();
    let mut files = files_below(&source).context("failed to list the sources")?;
    files.sort();
    for file in files {
        let path = file.strip_prefix(&source).unwrap_or(&file);
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        findings.extend(violations(path, &text)?);
    }
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

/// What the file at `path`, relative to the crate's src, names against the table.
fn violations(path: &Path, text: &str) -> Result<Vec<String>> {
    let module = module_of(path);
    // The crate's roots name all modules, and hold no others' code.
    let Some(name) = module.first() else {
        return Ok(Vec::new());
    };
    if module.last().is_some_and(|last| last == "tests") {
        return Ok(Vec::new());
    }
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        return Ok(vec![format!(
            "{CRATE}/src/{}: the module {name} has no place in the table of xtask/src/layers.rs; give it one",
            path.display()
        )]);
    };
    let file =
        syn::parse_file(text).with_context(|| format!("failed to parse {}", path.display()))?;
    let mut names = Names {
        module,
        ..Names::default()
    };
    names.visit_file(&file);
    // A forbidden import has many uses; the first line that names it is enough.
    let mut seen = BTreeSet::new();
    Ok(names
        .resolved()
        .iter()
        .filter_map(|(line, named)| Some((line, named, layer.forbids(named)?)))
        .filter(|(_, _, forbidden)| seen.insert(*forbidden))
        .map(|(line, named, forbidden)| {
            let (path, named, name) = (path.display(), named.join("::"), layer.name);
            format!(
                "{CRATE}/src/{path}:{line}: {name} must not name {named}: it is kept apart from {forbidden}"
            )
        })
        .collect())
}

impl Layer {
    /// The module or the path that `path` must not lead this layer to, if there is one.
    fn forbids(&self, path: &[String]) -> Option<&'static str> {
        let (first, rest) = path.split_first()?;
        if first == "crate" {
            let other = rest.first()?;
            let other = LAYERS.iter().find(|layer| layer.name == other)?.name;
            let permitted = other == self.name || self.may_name.contains(&other);
            return (!permitted).then_some(other);
        }
        self.must_not.iter().copied().find(|forbidden| {
            let forbidden: Vec<_> = forbidden.split("::").collect();
            match path.split_last() {
                // A glob brings in what is below it.
                Some((glob, above)) if glob == "*" => {
                    let shared = above.len().min(forbidden.len());
                    above[..shared] == forbidden[..shared]
                }
                _ => path.len() >= forbidden.len() && path[..forbidden.len()] == forbidden[..],
            }
        })
    }
}

/// The module that a file below src holds; the crate's roots hold the empty one.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        module.pop();
    }
    module
}

/// Collects the paths that a file names, each with its line.
#[derive(Default)]
struct Names {
    /// Where the visitor is.
    module: Vec<String>,
    /// As written, made absolute where they start at `crate`, `self` or `super`.
    paths: Vec<(usize, Vec<String>)>,
    /// What `use` calls them here.
    imports: HashMap<String, Vec<String>>,
}

impl Names {
    /// All paths, with imported first segments replaced by what was imported.
    fn resolved(&self) -> Vec<(usize, Vec<String>)> {
        self.paths
            .iter()
            .map(|(line, path)| {
                let imported = path.first().and_then(|first| self.imports.get(first));
                let path = match imported {
                    Some(full) => full.iter().chain(&path[1..]).cloned().collect(),
                    None => path.clone(),
                };
                (*line, path)
            })
            .collect()
    }

    fn record(&mut self, line: usize, path: &[String]) {
        if !path.is_empty() {
            self.paths.push((line, self.absolute(path)));
        }
    }

    fn absolute(&self, path: &[String]) -> Vec<String> {
        let Some(first) = path.first() else {
            return Vec::new();
        };
        let supers = path
            .iter()
            .take_while(|part| *part == "super" || *part == "self");
        let relative = supers.clone().count();
        let up = supers.filter(|part| *part == "super").count();
        if first == CRATE {
            return [&["crate".to_owned()], &path[1..]].concat();
        }
        if relative == 0 {
            return path.to_vec();
        }
        let kept = self.module.len().saturating_sub(up);
        [
            &["crate".to_owned()],
            &self.module[..kept],
            &path[relative..],
        ]
        .concat()
    }

    fn use_tree(&mut self, line: usize, prefix: &[String], tree: &syn::UseTree) {
        let below = |part: &syn::Ident| [prefix, &[part.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(line, &below(&path.ident), &path.tree),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(line, prefix, tree);
                }
            }
            syn::UseTree::Glob(_) => self.record(line, &[prefix, &["*".to_owned()]].concat()),
            syn::UseTree::Name(name) => self.import(line, prefix, &name.ident, &name.ident),
            syn::UseTree::Rename(name) => self.import(line, prefix, &name.ident, &name.rename),
        }
    }

    fn import(&mut self, line: usize, prefix: &[String], name: &syn::Ident, called: &syn::Ident) {
        // `use std::fs::{self}` imports the prefix.
        let (path, called) = if name == "self" && !prefix.is_empty() {
            let called = if called == "self" {
                prefix[prefix.len() - 1].clone()
            } else {
                called.to_string()
            };
            (prefix.to_vec(), called)
        } else {
            ([prefix, &[name.to_string()]].concat(), called.to_string())
        };
        self.record(line, &path);
        let path = self.absolute(&path);
        self.imports.insert(called, path);
    }

    /// Macros take tokens that need not be syntax: look for `a::b::c` in them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 || path.is_empty() {
                        self.record(line, &std::mem::take(&mut path));
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                }
                TokenTree::Group(group) => {
                    self.record(line, &std::mem::take(&mut path));
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.record(line, &std::mem::take(&mut path));
                }
            }
            colons = 0;
        }
        self.record(line, &path);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.use_tree(item.use_token.span.start().line, &[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        let line = path
            .segments
            .first()
            .map_or(0, |part| part.ident.span().start().line);
        self.record(line, &parts);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// Whether `#[cfg(test)]` is there, the only form in which tests are set apart here.
fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        let found = violations(Path::new(path), text).unwrap();
        assert_eq!(found.len(), expected.len(), "{text}\n{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "`{expected}` is not in `{found}`");
        }
    }

    #[test]
    fn a_stage_does_not_name_another_stage() {
        for text in [
            "use crate::bpf::Maps;",
            "use crate::{event, bpf};",
            "use crate::bpf as kernel;",
            "use super::super::bpf::Maps;",
            "fn f() { crate::bpf::pin(); }",
            "fn f(maps: &crate::bpf::Maps) {}",
            "fn f() { println!(\"{}\", crate::bpf::COUNT); }",
            "fn f() { tokio::select! { _ = async { crate::bpf::wait() } => {} } }",
            "mod inner { use super::super::super::bpf; }",
            "use cgfw::bpf;",
        ] {
            check("dns/upstream.rs", text, &["dns must not name crate::bpf"]);
        }
    }

    #[test]
    fn a_stage_names_vocabulary_and_itself() {
        check(
            "dns/upstream.rs",
            "use crate::policy::Domain; use super::handler::Handler;",
            &[],
        );
        check(
            "dns/mod.rs",
            "use self::handler::Handler; use crate::event::{Event, Fact};",
            &[],
        );
        check(
            "bpf/records.rs",
            "fn f() -> crate::event::Event { super::decode() }",
            &[],
        );
    }

    #[test]
    fn vocabulary_does_not_touch_the_world() {
        for (text, named) in [
            ("use std::fs;", "std::fs"),
            ("use std::{fmt, fs::File};", "std::fs::File"),
            ("use std::net::{IpAddr, UdpSocket};", "std::net::UdpSocket"),
            ("use std::time::*;", "std::time::*"),
            (
                "use std::time::SystemTime; fn f() { SystemTime::now(); }",
                "std::time::SystemTime::now",
            ),
            (
                "use std::time; fn f() { time::Instant::now(); }",
                "std::time::Instant::now",
            ),
            (
                "use std::time::{self as clock}; fn f() { clock::Instant::now(); }",
                "std::time::Instant::now",
            ),
            ("fn f() { std::env::var(\"HOME\"); }", "std::env::var"),
            (
                "fn f() { assert!(std::env::args().count() > 1); }",
                "std::env::args",
            ),
            (
                "async fn f(socket: tokio::net::UdpSocket) {}",
                "tokio::net::UdpSocket",
            ),
        ] {
            check("policy/rule.rs", text, &[&format!("must not name {named}")]);
        }
    }

    #[test]
    fn vocabulary_holds_times_and_addresses_as_data() {
        check(
            "event.rs",
            "use std::net::{IpAddr, SocketAddr}; use std::time::SystemTime; struct E(SystemTime, IpAddr);",
            &[],
        );
    }

    #[test]
    fn what_only_tests_see_is_free() {
        check(
            "ledger.rs",
            "#[cfg(test)] mod tests { use crate::bpf; use std::fs; }",
            &[],
        );
        check("policy/tests.rs", "use std::fs;", &[]);
        check(
            "ledger.rs",
            "#[cfg(unix)] mod tests { use std::fs; }",
            &["must not name std::fs"],
        );
    }

    #[test]
    fn the_wiring_names_all_and_the_roots_are_free() {
        check(
            "run.rs",
            "use crate::{bpf, cgroup, child, dns, report};",
            &[],
        );
        check("main.rs", "fn main() { cgfw::run::run() }", &[]);
    }

    #[test]
    fn a_new_module_has_to_be_given_a_place() {
        check(
            "cache.rs",
            "",
            &["the module cache has no place in the table"],
        );
    }

    #[test]
    fn a_finding_says_where() {
        check(
            "child.rs",
            "\n\nuse crate::policy::Rule;",
            &["cgfw/src/child.rs:3: "],
        );
    }

    #[test]
    fn the_table_names_modules_that_are_in_it() {
        for layer in LAYERS {
            for name in layer.may_name {
                assert!(LAYERS.iter().any(|layer| layer.name == *name), "{name}");
            }
        }
    }
}
