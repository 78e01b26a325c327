//! placeholder
use std::path::Path;
pub(crate) fn up(_: &Path, _: Option<u8>) -> Result<(), String> {
    Err("x".into())
}
pub(crate) fn down(_: &Path) -> Result<(), String> {
    Err("x".into())
}
pub(crate) fn status(_: &Path) -> Result<(), String> {
    Err("x".into())
}
