//! Waiting for a condition that another process brings about.

use std::time::{Duration, Instant};

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds something; `None` when `patience` has run out.
///
/// # Errors
/// Those of `look`, at once.
pub(super) fn until<T>(
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<Option<T>, String> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if start.elapsed() >= patience {
            return Ok(None);
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process brings the condition about and tells nobody"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_what_was_found_with_an_error_or_with_nothing() {
        let mut looks = 0;
        let third = until(Duration::MAX, || {
            looks += 1;
            Ok((looks == 3).then_some("found"))
        });
        let error = until::<()>(Duration::MAX, || Err("it died".to_owned()));
        let nothing = until::<()>(Duration::ZERO, || Ok(None));

        assert_eq!(third, Ok(Some("found")));
        assert_eq!(error, Err("it died".to_owned()));
        assert_eq!(nothing, Ok(None));
    }
}
