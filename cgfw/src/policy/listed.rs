/*!
The names of lists: a million of them in 15 octets each.

A list says nothing of a name but what is to be done and where it is written, so that a name
is kept as its hash, and the rule that it stands for is made when it is wanted.

Two names are taken for one if all 64 bits of their hashes agree. The hash is SipHash, keyed
anew for each run, which without the key cannot be told from chance: nobody can prepare a
name that collides, nor learn more than verdicts by asking. A name of k labels is compared
with n listed ones by k hashes, and is mistaken for one of them with a probability below
k * n / 2^64: for k = 4 and a million names 2 in 10^13, so that of a billion different
names none is judged wrongly with a probability of 0.9998.
*/

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::{Action, Domain, Pattern, Place, Rule, Scope, Source};

/// The most lines that all lists together can have.
const MAX_LINES: u32 = 1 << LINE_BITS;
const LINE_BITS: u32 = 29;
const BLOCK_BIT: u32 = 1 << LINE_BITS;
const SCOPE_SHIFT: u32 = LINE_BITS + 1;
/// How many names share a bucket, on average, as a power of two.
const PER_BUCKET: u32 = 2;
/// How many bits of the filter there are for each name, as a power of two: of the names that
/// are not listed one in 16 passes it.
const FILTER_BITS: u32 = 4;

/// Names of lists, as they are read: sorted into [`Listed`] at the end.
#[derive(Debug, Default)]
pub struct Names {
    entries: Vec<Entry>,
    places: Vec<First>,
    /// Lines of all the places so far.
    lines: u32,
    hasher: RandomState,
    /// Only while it is not clear whether they are exceptions.
    allowed: Allowed,
}

/// The lists together have more lines than can be numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyLines;

impl std::error::Error for TooManyLines {}

impl std::fmt::Display for TooManyLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "all lists together have more than {MAX_LINES} lines")
    }
}

/// The names that allow lists allow: the wire labels of each behind its length and scope.
#[derive(Debug, Default)]
pub(super) struct Allowed(Vec<u8>);

impl Allowed {
    fn add(&mut self, wire: &[u8], scope: Scope) {
        // No name is longer than 255 octets.
        self.0.push(u8::try_from(wire.len()).unwrap_or(u8::MAX));
        self.0.push(number(scope).to_le_bytes()[0]);
        self.0.extend(wire);
    }

    /// As patterns, in the order of the lists.
    pub(super) fn patterns(&self) -> impl Iterator<Item = Pattern> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (&[length, scope], tail) = rest.split_first_chunk::<2>()?;
            let (wire, tail) = tail.split_at_checked(length.into())?;
            rest = tail;
            Some(Pattern::Domain {
                name: Domain::from_wire(wire),
                scope: Entry([0, 0, u32::from(scope) << SCOPE_SHIFT]).scope(),
            })
        })
    }
}

/// Names of lists that can be looked up.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    /// Ascending.
    entries: Vec<Entry>,
    /// Where the entries begin whose hashes begin with so many.
    buckets: Vec<u32>,
    /// The bits that the ends of the hashes choose, a power of two of them. Most names are
    /// not listed: with a million entries, asking here first spares a cache miss each.
    filter: Vec<u64>,
    places: Vec<First>,
    hasher: RandomState,
}

/// Where the lines of a place begin among those of all places.
#[derive(Clone, Debug)]
struct First {
    line: u32,
    place: Arc<Place>,
}

/// Both halves of a hash; then scope, action and line.
///
/// Words of 32 bits, since with one of 64 there would be four octets of padding in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry([u32; 3]);

impl Entry {
    fn new(hash: u64, scope: Scope, action: Action, line: u32) -> Self {
        let block = match action {
            Action::Allow => 0,
            Action::Block => BLOCK_BIT,
        };
        let [high, low] = halves(hash);
        Self([high, low, number(scope) << SCOPE_SHIFT | block | line])
    }

    fn is(&self, hash: u64) -> bool {
        self.0[..2] == halves(hash)
    }

    fn scope(&self) -> Scope {
        match self.0[2] >> SCOPE_SHIFT {
            0 => Scope::Subtree,
            1 => Scope::Exact,
            _ => Scope::Below,
        }
    }

    fn action(&self) -> Action {
        if self.0[2] & BLOCK_BIT == 0 {
            Action::Allow
        } else {
            Action::Block
        }
    }

    fn line(&self) -> u32 {
        self.0[2] & (MAX_LINES - 1)
    }

    /// Everything but the line.
    fn meaning(&self) -> [u32; 3] {
        [self.0[0], self.0[1], self.0[2] >> LINE_BITS]
    }
}

fn number(scope: Scope) -> u32 {
    match scope {
        Scope::Subtree => 0,
        Scope::Exact => 1,
        Scope::Below => 2,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "halves of 64 bits")]
fn halves(hash: u64) -> [u32; 2] {
    [(hash >> 32) as u32, hash as u32]
}

impl Names {
    /// The names that follow are written in `place`.
    pub fn begin(&mut self, place: Arc<Place>) {
        self.places.push(First {
            line: self.lines,
            place,
        });
    }

    /// Enter a name, as lower-cased wire labels, that is written in `line` (from 1) of the
    /// last place.
    pub fn add(
        &mut self,
        wire: &[u8],
        scope: Scope,
        action: Action,
        line: u32,
    ) -> Result<(), TooManyLines> {
        let first = self.places.last().map_or(0, |place| place.line);
        let line = first.checked_add(line).ok_or(TooManyLines)?;
        if line >= MAX_LINES {
            return Err(TooManyLines);
        }
        self.lines = self.lines.max(line);
        let hash = self.hasher.hash_one(wire);
        self.entries.push(Entry::new(hash, scope, action, line));
        let list = self.places.last().and_then(|first| first.place.list);
        if (list, action) == (Some(Action::Allow), Action::Allow) {
            self.allowed.add(wire, scope);
        }
        Ok(())
    }

    /// How many there are, repeated ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sort, and forget what is said twice: the first line stands for all.
    pub(super) fn index(mut self) -> (Listed, Allowed) {
        self.entries.sort_unstable();
        self.entries.dedup_by_key(|entry| entry.meaning());
        self.entries.shrink_to_fit();
        let mut listed = Listed {
            entries: self.entries,
            buckets: Vec::new(),
            filter: Vec::new(),
            places: self.places,
            hasher: self.hasher,
        };
        let names = listed.entries.len().next_power_of_two();
        listed.filter = vec![0; (names << FILTER_BITS).div_ceil(u64::BITS as usize)];
        for at in 0..listed.entries.len() {
            let (word, bit) = listed.filter_bit(listed.entries[at].0[1]);
            listed.filter[word] |= bit;
        }
        let bits = listed.bucket_bits();
        let mut next = 0_u32;
        listed.buckets = (0..=1_u64 << bits)
            .map(|bucket| {
                let rest = listed.entries.get(next as usize..).unwrap_or_default();
                let passed = rest
                    .iter()
                    .take_while(|entry| u64::from(entry.0[0]) >> (32 - bits) < bucket)
                    .count();
                next += u32::try_from(passed).unwrap_or(u32::MAX);
                next
            })
            .collect();
        (listed, self.allowed)
    }
}

impl Listed {
    /// How many bits of a hash choose its bucket: at least 1 and at most 30.
    fn bucket_bits(&self) -> u32 {
        let count = self.entries.len().max(1);
        count.ilog2().saturating_sub(PER_BUCKET).clamp(1, 30)
    }

    /// The rules that are written for just the name with these wire labels, those that
    /// block first.
    pub(super) fn rules(&self, wire: &[u8]) -> impl Iterator<Item = Arc<Rule>> {
        let entries = self.entries_of(wire);
        let by_action = |action| entries.iter().filter(move |entry| entry.action() == action);
        by_action(Action::Block)
            .chain(by_action(Action::Allow))
            .map(|entry| Arc::new(self.rule(wire, *entry)))
    }

    fn entries_of(&self, wire: &[u8]) -> &[Entry] {
        if self.entries.is_empty() {
            return &[];
        }
        let hash = self.hasher.hash_one(wire);
        let (word, bit) = self.filter_bit(halves(hash)[1]);
        if self.filter[word] & bit == 0 {
            return &[];
        }
        let bucket = (halves(hash)[0] >> (32 - self.bucket_bits())) as usize;
        let bucket =
            &self.entries[self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize];
        let from = bucket.partition_point(|entry| entry.0[..2] < halves(hash)[..]);
        let count = bucket[from..]
            .iter()
            .take_while(|entry| entry.is(hash))
            .count();
        &bucket[from..from + count]
    }

    /// The word and the bit of the filter for the lower half of a hash.
    fn filter_bit(&self, low: u32) -> (usize, u64) {
        let word = (low / u64::BITS) as usize & (self.filter.len() - 1);
        (word, 1 << (low % u64::BITS))
    }

    fn rule(&self, wire: &[u8], entry: Entry) -> Rule {
        let later = self
            .places
            .partition_point(|first| first.line < entry.line());
        let source = match self.places[..later].last() {
            Some(first) => Source {
                place: Arc::clone(&first.place),
                line: entry.line() - first.line,
            },
            None => Source::default(),
        };
        Rule {
            pattern: Pattern::Domain {
                name: Domain::from_wire(wire),
                scope: entry.scope(),
            },
            ports: None,
            transport: None,
            action: entry.action(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn place(name: &str, list: Action) -> Arc<Place> {
        Arc::new(Place {
            name: name.to_owned(),
            list: Some(list),
            ..Place::default()
        })
    }

    fn wire(name: &str) -> Vec<u8> {
        Domain::parse(name).unwrap().as_wire().to_vec()
    }

    fn cited(listed: &Listed, name: &str) -> Vec<String> {
        listed.rules(&wire(name)).map(|rule| rule.cite()).collect()
    }

    #[test]
    fn a_name_is_found_with_every_line_that_says_something_else_of_it() {
        let mut names = Names::default();
        names.begin(place("a.txt", Action::Block));
        let (block, allow) = (Action::Block, Action::Allow);
        names
            .add(&wire("x.test"), Scope::Subtree, block, 3)
            .unwrap();
        names
            .add(&wire("x.test"), Scope::Subtree, block, 7)
            .unwrap();
        names.add(&wire("x.test"), Scope::Exact, allow, 9).unwrap();
        names.begin(place("b.txt", Action::Allow));
        names.add(&wire("y.test"), Scope::Below, allow, 1).unwrap();
        names.begin(place("c.txt", Action::Block));
        names.begin(place("d.txt", Action::Block));
        names.add(&wire("x.test"), Scope::Below, block, 2).unwrap();
        let listed = names.index().0;
        assert_eq!(listed.entries.len(), 4);
        assert_eq!(
            cited(&listed, "x.test"),
            ["a.txt:3: x.test", "d.txt:2: *.x.test", "a.txt:9: =x.test"]
        );
        assert_eq!(cited(&listed, "y.test"), ["b.txt:1: *.y.test"]);
        assert_eq!(cited(&listed, "z.test"), [""; 0]);
        assert_eq!(cited(&Names::default().index().0, "z.test"), [""; 0]);
    }

    #[test]
    fn every_name_of_a_long_list_is_found_and_no_other() {
        for count in [1_u32, 2, 3, 7, 8, 9, 1000, 40_000] {
            let mut names = Names::default();
            names.begin(place("list", Action::Block));
            for line in 1..=count {
                let name = wire(&format!("n{line}.test"));
                names
                    .add(&name, Scope::Subtree, Action::Block, line)
                    .unwrap();
            }
            let listed = names.index().0;
            for line in 1..=count {
                let expected = format!("list:{line}: n{line}.test");
                assert_eq!(cited(&listed, &format!("n{line}.test")), [expected]);
                assert_eq!(cited(&listed, &format!("m{line}.test")), [""; 0]);
            }
        }
    }

    #[test]
    fn names_of_allow_lists_are_kept_as_patterns_and_those_of_others_are_not() {
        let mut names = Names::default();
        names.begin(place("allow.txt", Action::Allow));
        names
            .add(&wire("a.test"), Scope::Exact, Action::Allow, 1)
            .unwrap();
        names
            .add(&wire("b.test"), Scope::Below, Action::Block, 2)
            .unwrap();
        names
            .add(&wire("c.test"), Scope::Below, Action::Allow, 3)
            .unwrap();
        names.begin(place("block.txt", Action::Block));
        names
            .add(&wire("d.test"), Scope::Subtree, Action::Block, 1)
            .unwrap();
        names
            .add(&wire("e.test"), Scope::Subtree, Action::Allow, 2)
            .unwrap();
        let patterns: Vec<String> = names.index().1.patterns().map(|p| p.to_string()).collect();
        assert_eq!(patterns, ["=a.test", "*.c.test"]);
    }

    #[test]
    fn lines_beyond_the_last_number_are_an_error() {
        let mut names = Names::default();
        names.begin(place("a", Action::Block));
        let mut add = |line| names.add(b"\x01a", Scope::Subtree, Action::Block, line);
        assert_eq!(add(MAX_LINES), Err(TooManyLines));
        assert_eq!(add(MAX_LINES - 1), Ok(()));
        names.begin(place("b", Action::Block));
        let added = names.add(b"\x01b", Scope::Subtree, Action::Block, 1);
        assert_eq!(added, Err(TooManyLines));
    }

    #[test]
    fn the_hash_has_another_key_in_each_run() {
        let hashes: HashSet<u64> = (0..8)
            .map(|_| Names::default().hasher.hash_one(&b"\x01a"[..]))
            .collect();
        assert_eq!(hashes.len(), 8);
    }
}
