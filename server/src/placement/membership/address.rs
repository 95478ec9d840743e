use flotilla_proto::address;

use crate::error::Error;

/// Refuses what others cannot dial, with words, before anything is written.
///
/// # Errors
/// `InvalidArgument` that names `field`.
pub fn check_address(field: &str, address: &str) -> Result<(), Error> {
    let refuse = |problem: &str| Error::invalid(field, format!("{address:?} {problem}"));
    address::check(address).map_err(refuse)
}
