//! Lists that a node answers page by page.

use super::{Done, End, Failed, degraded};

/// Most pages that one list asks for: a hundred thousand rows or looks without a find.
const PAGES_MAX: usize = 100;

/// A list of which a part is there.
pub(super) struct Listed<T> {
    pub(super) rows: Vec<T>,
    /// Behind what to go on.
    pub(super) next: Option<String>,
    /// What is not in it.
    pub(super) missing: Vec<String>,
}

/// Asks for pages until there are `limit` rows or no more. `ask` gets the cursor and how many rows
/// are still wanted.
pub(super) fn gather<T>(
    after: Option<String>,
    limit: usize,
    page_max: usize,
    mut ask: impl FnMut(Option<String>, usize) -> Result<Listed<T>, Failed>,
) -> Result<Listed<T>, Failed> {
    let mut all = Listed {
        rows: Vec::new(),
        next: after,
        missing: Vec::new(),
    };
    for _ in 0..PAGES_MAX {
        let wanted = (limit - all.rows.len()).min(page_max);
        let page = ask(all.next.take(), wanted)?;
        all.rows.extend(page.rows);
        all.next = page.next;
        all.missing.extend(page.missing);
        if all.next.is_none() || all.rows.len() >= limit {
            break;
        }
    }
    all.missing.sort();
    all.missing.dedup();
    Ok(all)
}

/// Says on standard error where the list goes on, and what is not in it.
pub(super) fn end(printed: End, next: Option<&str>, missing: Vec<String>) -> Done {
    if let Some(next) = next {
        let next = super::table::plain(next);
        eprintln!("there is more; go on with --after {next:?}");
    }
    match printed {
        End::Good => degraded(missing),
        End::Degraded => Ok(End::Degraded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_until_there_is_enough() {
        let mut asked = Vec::new();
        let listed = gather(None, 5, 2, |after, wanted| {
            asked.push((after.clone(), wanted));
            let at: usize = after.map_or(0, |after| after.parse().expect("a number"));
            // A page may be empty and go on.
            let rows: Vec<usize> = if at == 2 { vec![] } else { vec![at, at + 1] };
            Ok(Listed {
                rows,
                next: Some((at + 2).to_string()),
                missing: vec!["x".into()],
            })
        });
        let listed = listed.unwrap_or_else(|_| panic!("every page comes"));
        assert_eq!(listed.rows, [0, 1, 4, 5, 6, 7]);
        assert_eq!(listed.next.as_deref(), Some("8"));
        assert_eq!(listed.missing, ["x"]);
        let wanted: Vec<usize> = asked.iter().map(|(_, wanted)| *wanted).collect();
        assert_eq!(wanted, [2, 2, 2, 1]);
    }
}
