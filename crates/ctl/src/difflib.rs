//! The matching rules of Python's `difflib`: which lines a diff shows as changed, and which word was probably meant.
//!
//! Another algorithm gives other (equally right) diffs; scripts compare the diff of `edit-config` with the one they
//! know.

use std::collections::HashMap;
use std::hash::Hash;

/// The unified diff of two texts with three lines of context; empty if they are equal.
pub(crate) fn unified_diff(before: &str, after: &str) -> Vec<String> {
    let (a, b) = (lines(before), lines(after));
    let blocks = matching_blocks(&a, &b);
    let mut out = Vec::new();
    for group in grouped(&opcodes(&blocks)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        if out.is_empty() {
            out.extend(["--- ".to_owned(), "+++ ".to_owned()]);
        }
        out.push(format!("@@ -{} +{} @@", range(first.a.0, last.a.1), range(first.b.0, last.b.1)));
        for code in &group {
            let old = &a[code.a.0..code.a.1];
            if code.equal {
                out.extend(old.iter().map(|line| format!(" {line}")));
            } else {
                out.extend(old.iter().map(|line| format!("-{line}")));
                out.extend(b[code.b.0..code.b.1].iter().map(|line| format!("+{line}")));
            }
        }
    }
    out
}

/// Up to three of the candidates that resemble the word, the best first.
pub(crate) fn close_matches<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let word: Vec<char> = word.chars().collect();
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (ratio(&candidate.chars().collect::<Vec<_>>(), &word), candidate))
        .filter(|(score, _)| *score >= 0.6)
        .collect();
    scored.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| y.1.cmp(x.1)));
    scored.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

fn lines(text: &str) -> Vec<&str> {
    text.trim_end_matches('\n').split('\n').collect()
}

fn ratio(a: &[char], b: &[char]) -> f64 {
    let total = a.len() + b.len();
    if total == 0 {
        return 1.0;
    }
    let matched: usize = matching_blocks(a, b).iter().map(|block| block.size).sum();
    2.0 * matched as f64 / total as f64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    a: usize,
    b: usize,
    size: usize,
}

#[derive(Clone, Copy, Debug)]
struct Opcode {
    equal: bool,
    a: (usize, usize),
    b: (usize, usize),
}

/// The matching blocks in order, adjacent ones joined, closed by an empty one at the ends.
fn matching_blocks<T: Eq + Hash>(a: &[T], b: &[T]) -> Vec<Block> {
    let index = positions(b);
    let mut queue = vec![((0, a.len()), (0, b.len()))];
    let mut found = Vec::new();
    while let Some((in_a, in_b)) = queue.pop() {
        let block = longest_match(a, b, &index, in_a, in_b);
        if block.size == 0 {
            continue;
        }
        found.push(block);
        if in_a.0 < block.a && in_b.0 < block.b {
            queue.push(((in_a.0, block.a), (in_b.0, block.b)));
        }
        if block.a + block.size < in_a.1 && block.b + block.size < in_b.1 {
            queue.push(((block.a + block.size, in_a.1), (block.b + block.size, in_b.1)));
        }
    }
    found.sort_unstable();
    let mut joined: Vec<Block> = Vec::new();
    for block in found {
        match joined.last_mut() {
            Some(last) if last.a + last.size == block.a && last.b + last.size == block.b => last.size += block.size,
            _ => joined.push(block),
        }
    }
    joined.push(Block { a: a.len(), b: b.len(), size: 0 });
    joined
}

/// Where each element occurs in `b`; elements that make up more than a hundredth of 200 or more are too common to
/// start a match ("autojunk").
fn positions<T: Eq + Hash>(b: &[T]) -> HashMap<&T, Vec<usize>> {
    let mut index: HashMap<&T, Vec<usize>> = HashMap::new();
    for (j, element) in b.iter().enumerate() {
        index.entry(element).or_default().push(j);
    }
    if b.len() >= 200 {
        let popular = b.len() / 100 + 1;
        index.retain(|_, places| places.len() <= popular);
    }
    index
}

fn longest_match<T: Eq + Hash>(
    a: &[T],
    b: &[T],
    index: &HashMap<&T, Vec<usize>>,
    in_a: (usize, usize),
    in_b: (usize, usize),
) -> Block {
    let mut best = Block { a: in_a.0, b: in_b.0, size: 0 };
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (i, element) in a.iter().enumerate().take(in_a.1).skip(in_a.0) {
        let mut longer = HashMap::new();
        for &j in index.get(element).map_or(&[][..], Vec::as_slice) {
            if j < in_b.0 {
                continue;
            }
            if j >= in_b.1 {
                break;
            }
            let size = j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0) + 1;
            longer.insert(j, size);
            if size > best.size {
                best = Block { a: i + 1 - size, b: j + 1 - size, size };
            }
        }
        lengths = longer;
    }
    // Common elements start no match, but they extend one.
    while best.a > in_a.0 && best.b > in_b.0 && a[best.a - 1] == b[best.b - 1] {
        best = Block { a: best.a - 1, b: best.b - 1, size: best.size + 1 };
    }
    while best.a + best.size < in_a.1 && best.b + best.size < in_b.1 && a[best.a + best.size] == b[best.b + best.size] {
        best.size += 1;
    }
    best
}

fn opcodes(blocks: &[Block]) -> Vec<Opcode> {
    let (mut i, mut j) = (0, 0);
    let mut codes = Vec::new();
    for block in blocks {
        if i < block.a || j < block.b {
            codes.push(Opcode { equal: false, a: (i, block.a), b: (j, block.b) });
        }
        (i, j) = (block.a + block.size, block.b + block.size);
        if block.size > 0 {
            codes.push(Opcode { equal: true, a: (block.a, i), b: (block.b, j) });
        }
    }
    codes
}

/// Changes with up to three lines around them, those near each other together.
fn grouped(codes: &[Opcode]) -> Vec<Vec<Opcode>> {
    const CONTEXT: usize = 3;
    let mut codes = codes.to_vec();
    if codes.iter().all(|code| code.equal) {
        return Vec::new();
    }
    if let Some(first) = codes.first_mut().filter(|code| code.equal) {
        let skip = (first.a.1 - first.a.0).saturating_sub(CONTEXT);
        (first.a.0, first.b.0) = (first.a.0 + skip, first.b.0 + skip);
    }
    if let Some(last) = codes.last_mut().filter(|code| code.equal) {
        let skip = (last.a.1 - last.a.0).saturating_sub(CONTEXT);
        (last.a.1, last.b.1) = (last.a.1 - skip, last.b.1 - skip);
    }
    let mut groups = Vec::new();
    let mut group: Vec<Opcode> = Vec::new();
    for code in codes {
        if code.equal && code.a.1 - code.a.0 > 2 * CONTEXT {
            group.push(Opcode { equal: true, a: (code.a.0, code.a.0 + CONTEXT), b: (code.b.0, code.b.0 + CONTEXT) });
            groups.push(std::mem::take(&mut group));
            group.push(Opcode { equal: true, a: (code.a.1 - CONTEXT, code.a.1), b: (code.b.1 - CONTEXT, code.b.1) });
        } else {
            group.push(code);
        }
    }
    if group.iter().any(|code| !code.equal) {
        groups.push(group);
    }
    groups
}

fn range(start: usize, stop: usize) -> String {
    match stop - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_in_the_middle() {
        let diff = unified_diff("a\nb\nc\nd\ne\n", "a\nb\nc\nx\ne\nf\n");
        assert_eq!(diff, ["--- ", "+++ ", "@@ -1,5 +1,6 @@", " a", " b", " c", "-d", "+x", " e", "+f"]);
        assert!(unified_diff("a\n", "a\n").is_empty());
    }

    #[test]
    fn distant_changes_are_separate_hunks() {
        let before: String = (0..20).map(|i| format!("{i}\n")).collect();
        let after = before.replace("2\n3\n", "3\n").replace("17\n", "seventeen\n");
        let heads: Vec<_> = unified_diff(&before, &after).into_iter().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads.len(), 2, "{heads:?}");
        assert_eq!(heads[1], "@@ -15,6 +14,6 @@");
    }

    #[test]
    fn words_that_were_meant() {
        let commands = ["list", "history", "restart", "resume", "reload", "reinit"];
        assert_eq!(close_matches("lst", commands), ["list"]);
        assert_eq!(close_matches("relaod", commands), ["reload"]);
        assert!(close_matches("foo", commands).is_empty());
    }
}
