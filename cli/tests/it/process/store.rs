pub fn assert_no_row_twice(_: &std::path::Path) {}
pub fn remove_a_row(_: &std::path::Path) -> Row {
    loop {}
}
pub fn double_a_row(_: &std::path::Path) -> Row {
    loop {}
}
#[derive(Debug)]
pub struct Row {
    pub device: String,
    pub time: String,
}
