/*!
From the object in this binary to programs in the kernel.

aya's own `EbpfLoader` parses the BTF of the whole kernel before it does anything, which
takes longer than everything else at start together. So the object is parsed and
relocated with `aya_obj`, maps are aya's, and programs are loaded and attached here.
This file can go when aya 0.16, whose loader is lazy, builds with the Rust of this project.

Programs are attached the legacy way, not by links: such an attachment outlives cgfw and
ends with the cgroup, so that a killed cgfw leaves its child filtered.
*/

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, anyhow};
use aya::maps::MapData;
use aya_obj::generated::bpf_attach_type::{
    BPF_CGROUP_UNIX_CONNECT, BPF_CGROUP_UNIX_SENDMSG, BPF_LSM_CGROUP, BPF_TRACE_FENTRY,
};
use aya_obj::generated::bpf_prog_type::{
    self, BPF_PROG_TYPE_CGROUP_SKB, BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    BPF_PROG_TYPE_LSM, BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_TRACING,
};
use aya_obj::generated::{BPF_F_ALLOW_MULTI, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_info};
use aya_obj::{EbpfSectionKind, Features, Object, Program, ProgramSection};
use cgfw_common::{Config, InForce};

use super::btf::Functions;
use super::syscall::{bpf, create_map_of_maps, freeze, put, put_map, raw, short_name, zeroed_attr};

/// The compiled programs of `cgfw-ebpf`, for this machine's byte order.
#[cfg(target_endian = "little")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("cgfw.bpfel.o");
#[cfg(target_endian = "big")]
static OBJECT: &[u8] = aya::include_bytes_aligned!("cgfw.bpfeb.o");

/// The last part of the verifier's log is where the reason is.
const LOG_SIZE: u32 = 1 << 20;
const LOG_SHOWN: usize = 2000;

/// Programs in the kernel, not attached yet, and their maps by name.
pub(super) struct Loaded {
    pub(super) programs: Vec<LoadedProgram>,
    /// The LSM programs of `--strict`, or why this kernel does not take them.
    pub(super) guards: anyhow::Result<Vec<LoadedProgram>>,
    /// What observes unix sockets where those have no hooks, or why it cannot.
    pub(super) watchers: anyhow::Result<Vec<LoadedProgram>>,
    pub(super) maps: HashMap<String, MapData>,
}

pub(super) struct LoadedProgram {
    name: String,
    fd: OwnedFd,
    hook: Hook,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    /// To a cgroup, for as long as that lives.
    Cgroup(bpf_attach_type),
    /// Likewise, to the LSM hook whose function has this type id.
    Lsm(u32),
    /// To the tracepoint of its name, for as long as this process holds it: it observes.
    RawTracepoint,
    /// Likewise, to the entry of the function of this type id.
    Entry(u32),
    /// To nothing: another program goes on with it, by this map.
    TailCall(&'static str),
}

impl Hook {
    /// How a cgroup is told of it.
    fn attach_type(self) -> Option<bpf_attach_type> {
        match self {
            Self::Cgroup(attach_type) => Some(attach_type),
            Self::Lsm(_) => Some(BPF_LSM_CGROUP),
            Self::RawTracepoint | Self::Entry(_) | Self::TailCall(_) => None,
        }
    }
}

/// The maps of maps, and of which map each holds one for every generation.
const BY_SLOT: [(&str, &str); 2] = [
    ("ADDRESSES_BY_SLOT", "ADDRESSES"),
    ("NETWORKS_BY_SLOT", "NETWORKS"),
];

/// Create the maps, `NETWORKS` with room for that many, and verify the programs, as many as
/// this run needs. `log_level` is aya-log's, 0 for silence.
pub(super) fn load(
    config: &Config,
    networks: u32,
    functions: &Functions,
    log_level: u8,
) -> anyhow::Result<Loaded> {
    let mut object = parse(config, log_level)?;
    let maps = link(&mut object, networks)?;
    object
        .programs
        .retain(|name, program| is_wanted(config, name, program));
    let load = |wanted: &dyn Fn(&Program) -> bool| {
        let programs = object.programs.iter();
        let programs = programs.filter(|(_, program)| wanted(program)).collect();
        load_programs(&object, programs, functions)
    };
    let slots: &[_] = if config.live == 0 { &[] } else { &BY_SLOT };
    std::thread::scope(|scope| {
        // Beside the verifier's work, because each waits for an RCU grace period.
        let filling: Vec<_> = slots
            .iter()
            .map(|(outer, inner)| scope.spawn(|| put_map(&maps[*outer], 0, &maps[*inner])))
            .collect();
        let programs = load(&|program| !is_guard(program) && !is_watcher(program))?;
        let (guards, watchers) = (load(&is_guard), load(&is_watcher));
        for filled in filling {
            let filled = filled.join();
            filled
                .map_err(|_panic| anyhow!("a loading thread panicked"))?
                .context("cannot fill an eBPF map of maps")?;
        }
        for program in &programs {
            program.put_into(&maps)?;
        }
        anyhow::Ok((programs, guards, watchers))
    })
    .map(|(programs, guards, watchers)| Loaded {
        programs,
        guards,
        watchers,
        maps,
    })
}

/// The object with its constants.
fn parse(config: &Config, log_level: u8) -> anyhow::Result<Object> {
    let mut object = Object::parse(OBJECT).context("the built-in eBPF object is damaged")?;
    let in_force = InForce::new(0, config.unresolved).to_bits().to_ne_bytes();
    object
        .patch_map_data(
            [
                ("CONFIG", (as_bytes(config), true)),
                ("IN_FORCE", (&in_force[..], true)),
                (aya_log::LEVEL, (&[log_level][..], false)),
            ]
            .into(),
        )
        .context("the built-in eBPF object lacks its configuration")?;
    // Names and bpf_probe_read_kernel are in every kernel since 5.10.
    object.sanitize_functions(&Features::new(
        true, true, true, true, true, true, true, None,
    ));
    Ok(object)
}

/// Create the maps, and let the programs refer to them.
fn link(object: &mut Object, networks: u32) -> anyhow::Result<HashMap<String, MapData>> {
    let definitions = std::mem::take(&mut object.maps);
    let maps = create_maps(&definitions, networks)?;
    let sources: Vec<_> = definitions
        .iter()
        .map(|(name, definition)| {
            (
                name.as_str(),
                maps[name].fd().as_fd().as_raw_fd(),
                definition,
            )
        })
        .collect();
    let text_sections = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object
        .relocate_maps(sources.into_iter(), &text_sections)
        .map_err(|error| anyhow!("{error}"))?;
    object
        .relocate_calls(&text_sections)
        .map_err(|error| anyhow!("{error}"))?;
    Ok(maps)
}

/// Create the maps, and fill those that hold variables.
fn create_maps(
    definitions: &HashMap<String, aya_obj::Map>,
    networks: u32,
) -> anyhow::Result<HashMap<String, MapData>> {
    let mut maps = HashMap::new();
    let is_of_maps = |name: &str| BY_SLOT.iter().any(|(outer, _)| *outer == name);
    for (name, definition) in definitions {
        if is_of_maps(name) {
            continue;
        }
        let mut definition = definition.clone();
        if name == "NETWORKS" {
            definition.set_max_entries(networks.max(1));
        }
        let kind = definition.section_kind();
        let data = definition.data().to_vec();
        let map = MapData::create(definition, name, None)
            .with_context(|| format!("cannot create the eBPF map {name}"))?;
        if matches!(kind, EbpfSectionKind::Rodata | EbpfSectionKind::Data) {
            put(&map, 0, &data).with_context(|| format!("cannot fill the eBPF map {name}"))?;
        }
        if kind == EbpfSectionKind::Rodata {
            freeze(&map).with_context(|| format!("cannot freeze the eBPF map {name}"))?;
        }
        maps.insert(name.clone(), map);
    }
    for (outer, inner) in BY_SLOT {
        let find = |name: &str| format!("the built-in eBPF object has no map {name}");
        let definition = definitions.get(outer).with_context(|| find(outer))?;
        let inner = maps.get(inner).with_context(|| find(inner))?;
        let map = create_map_of_maps(outer, definition, inner)
            .with_context(|| format!("cannot create the eBPF map {outer}"))?;
        maps.insert(outer.to_owned(), map);
    }
    Ok(maps)
}

/// Whether a program has a use in this run, on this kernel.
fn is_wanted(config: &Config, name: &str, program: &Program) -> bool {
    // Nothing is left to be seen then.
    let strict = config.strict != 0;
    // Since 6.7.
    let has_unix_hooks = config.offsets.sock_addr_uaddrlen != 0;
    if is_guard(program) {
        strict
    } else if is_watcher(program) {
        !strict && !has_unix_hooks
    } else {
        !name.ends_with("_unix") || !strict && has_unix_hooks
    }
}

fn is_guard(program: &Program) -> bool {
    matches!(program.section, ProgramSection::LsmCgroup)
}

fn is_watcher(program: &Program) -> bool {
    matches!(program.section, ProgramSection::FEntry { .. })
}

/// Threads that have programs verified. More would wait for the one with the longest.
const LOADERS: usize = 4;

/// Have the kernel verify programs, some at a time: the verifier is most of the start.
fn load_programs(
    object: &Object,
    mut programs: Vec<(&String, &Program)>,
    functions: &Functions,
) -> anyhow::Result<Vec<LoadedProgram>> {
    let length = |program: &Program| object.functions[&program.function_key()].instructions.len();
    programs.sort_by_key(|(_, program)| std::cmp::Reverse(length(program)));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut loaded = Vec::new();
        while let Some((name, program)) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            loaded.push(load_program(object, name, program, functions)?);
        }
        anyhow::Ok(loaded)
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..LOADERS).map(|_| scope.spawn(work)).collect();
        let mut loaded = work()?;
        for helper in helpers {
            let theirs = helper.join();
            loaded.extend(theirs.map_err(|_panic| anyhow!("a loading thread panicked"))??);
        }
        Ok(loaded)
    })
}

impl LoadedProgram {
    /// Attach to a cgroup, beside what others have attached there or above; or to the whole
    /// host, which lasts as long as the descriptor that is returned.
    pub(super) fn attach(&self, cgroup: BorrowedFd<'_>) -> anyhow::Result<Option<OwnedFd>> {
        let attach_type = self.hook.attach_type();
        match attach_type {
            Some(attach_type) => self
                .attachment(bpf_cmd::BPF_PROG_ATTACH, cgroup, attach_type)
                .map(|()| None),
            None if matches!(self.hook, Hook::TailCall(_)) => return Ok(None),
            None => self.observe().map(Some),
        }
        .map_err(|error| match (attach_type, error.raw_os_error()) {
            (Some(_), Some(libc::EPERM)) => anyhow!(
                "cannot attach {}: a program on a cgroup above forbids more below it \
                 (attached without BPF_F_ALLOW_MULTI); `bpftool cgroup tree` shows which",
                self.name
            ),
            _ => anyhow!(error).context(format!("cannot attach {}", self.name)),
        })
    }

    /// Undo [`Self::attach`] to a cgroup.
    pub(super) fn detach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        match self.hook.attach_type() {
            Some(attach_type) => self.attachment(bpf_cmd::BPF_PROG_DETACH, cgroup, attach_type),
            None => Ok(()),
        }
    }

    fn attachment(
        &self,
        command: bpf_cmd,
        cgroup: BorrowedFd<'_>,
        attach_type: bpf_attach_type,
    ) -> io::Result<()> {
        let mut attr = zeroed_attr();
        attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = raw(cgroup.as_raw_fd());
        attr.__bindgen_anon_5.attach_bpf_fd = raw(self.fd.as_raw_fd());
        attr.__bindgen_anon_5.attach_type = attach_type as u32;
        attr.__bindgen_anon_5.attach_flags = if command == bpf_cmd::BPF_PROG_ATTACH {
            BPF_F_ALLOW_MULTI
        } else {
            0
        };
        bpf(command, &mut attr).map(drop)
    }

    fn observe(&self) -> io::Result<OwnedFd> {
        let name = CString::new(self.name.as_str()).map_err(io::Error::other)?;
        let mut attr = zeroed_attr();
        // A function was named when the program was loaded.
        if self.hook == Hook::RawTracepoint {
            attr.raw_tracepoint.name = name.as_ptr() as u64;
        }
        attr.raw_tracepoint.prog_fd = raw(self.fd.as_raw_fd());
        let fd = bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Let other programs go on with this one, if they do.
    fn put_into(&self, maps: &HashMap<String, MapData>) -> anyhow::Result<()> {
        let Hook::TailCall(name) = self.hook else {
            return Ok(());
        };
        let program = raw(self.fd.as_raw_fd()).to_ne_bytes();
        put(&maps[name], 0, &program).with_context(|| format!("cannot fill the eBPF map {name}"))
    }

    /// Its hook, if it has one.
    pub(super) fn hook(&self) -> Option<&str> {
        (!matches!(self.hook, Hook::TailCall(_))).then_some(&self.name)
    }

    /// Whether it sees unix sockets.
    pub(super) fn is_on_unix_sockets(&self) -> bool {
        matches!(
            self.hook,
            Hook::Cgroup(BPF_CGROUP_UNIX_CONNECT | BPF_CGROUP_UNIX_SENDMSG) | Hook::Entry(_)
        )
    }

    /// The id under which `bpftool prog` lists the program.
    pub(super) fn id(&self) -> io::Result<u32> {
        // SAFETY: integers only, for which zero is a value.
        let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
        let mut attr = zeroed_attr();
        attr.info.bpf_fd = raw(self.fd.as_raw_fd());
        attr.info.info_len = u32::try_from(size_of_val(&info)).unwrap_or(u32::MAX);
        attr.info.info = (&raw mut info) as u64;
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(info.id)
    }
}

/// What kind a program is and where it is attached, for those that are loaded here.
fn kind(
    name: &str,
    section: &ProgramSection,
    functions: &Functions,
) -> Option<(bpf_prog_type, Hook)> {
    if let ProgramSection::LsmCgroup = section {
        let function = functions.id(&format!("bpf_lsm_{name}"))?;
        return Some((BPF_PROG_TYPE_LSM, Hook::Lsm(function)));
    }
    if let ProgramSection::FEntry { .. } = section {
        let function = functions.id(name)?;
        return Some((BPF_PROG_TYPE_TRACING, Hook::Entry(function)));
    }
    if name == "walk" {
        return Some((BPF_PROG_TYPE_RAW_TRACEPOINT, Hook::TailCall("WALK")));
    }
    if let ProgramSection::RawTracePoint = section {
        return Some((BPF_PROG_TYPE_RAW_TRACEPOINT, Hook::RawTracepoint));
    }
    if let ProgramSection::CgroupSkb { attach_type } = section {
        let hook = Hook::Cgroup((*attach_type)?.into());
        return Some((BPF_PROG_TYPE_CGROUP_SKB, hook));
    }
    if let ProgramSection::CgroupSock { attach_type } = section {
        let hook = Hook::Cgroup((*attach_type).into());
        return Some((BPF_PROG_TYPE_CGROUP_SOCK, hook));
    }
    let ProgramSection::CgroupSockAddr { attach_type } = section else {
        return None;
    };
    // The sections of these two say something else, because aya has none for them.
    let attach_type = match name {
        "connect_unix" => BPF_CGROUP_UNIX_CONNECT,
        "sendmsg_unix" => BPF_CGROUP_UNIX_SENDMSG,
        _ => (*attach_type).into(),
    };
    Some((BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Hook::Cgroup(attach_type)))
}

fn load_program(
    object: &Object,
    name: &str,
    program: &Program,
    functions: &Functions,
) -> anyhow::Result<LoadedProgram> {
    let (prog_type, hook) = kind(name, &program.section, functions)
        .with_context(|| format!("this kernel has no place for the eBPF program {name}"))?;
    let instructions = &object.functions[&program.function_key()].instructions;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_3.prog_type = prog_type as u32;
    let (attach_type, function) = match hook {
        Hook::Cgroup(attach_type) => (attach_type as u32, 0),
        Hook::Lsm(function) => (BPF_LSM_CGROUP as u32, function),
        Hook::RawTracepoint | Hook::TailCall(_) => (0, 0),
        Hook::Entry(function) => (BPF_TRACE_FENTRY as u32, function),
    };
    attr.__bindgen_anon_3.expected_attach_type = attach_type;
    attr.__bindgen_anon_3.attach_btf_id = function;
    attr.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = u32::try_from(instructions.len())?;
    attr.__bindgen_anon_3.license = program.license.as_ptr() as u64;
    attr.__bindgen_anon_3.prog_name = short_name(name);
    let fd = match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => fd,
        Err(error) => {
            let reason = match error.raw_os_error() {
                Some(libc::EINVAL | libc::EACCES) => verifier_log(&mut attr),
                _ => String::new(),
            };
            let reason = if reason.is_empty() {
                reason
            } else {
                format!("; the verifier says:\n{reason}")
            };
            return Err(
                anyhow!(error).context(format!("cannot load the eBPF program {name}{reason}"))
            );
        }
    };
    Ok(LoadedProgram {
        name: name.to_owned(),
        // SAFETY: the kernel just made this descriptor for us.
        fd: unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd)?) },
        hook,
    })
}

/// Load once more, for the reason that the verifier gives. It has none for errors such as
/// too many open files.
fn verifier_log(attr: &mut bpf_attr) -> String {
    let mut log = vec![0_u8; LOG_SIZE as usize];
    attr.__bindgen_anon_3.log_buf = log.as_mut_ptr() as u64;
    attr.__bindgen_anon_3.log_size = LOG_SIZE;
    attr.__bindgen_anon_3.log_level = 1;
    if bpf(bpf_cmd::BPF_PROG_LOAD, attr).is_ok() {
        return String::new();
    }
    let text =
        CStr::from_bytes_until_nul(&log).map_or_else(|_ignored| "".into(), CStr::to_string_lossy);
    let from = text.floor_char_boundary(text.len().saturating_sub(LOG_SHOWN));
    text[from..].trim().to_owned()
}

fn as_bytes(config: &Config) -> &[u8] {
    // SAFETY: `Config` is integers without padding (asserted in cgfw-common).
    unsafe { std::slice::from_raw_parts((&raw const *config).cast(), size_of::<Config>()) }
}
