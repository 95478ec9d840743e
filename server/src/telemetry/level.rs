//! What may be said about what is logged. The operator is built with this very file: it has the same rule for itself, and
//! for what it passes on to servers.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// A filter may name a target alone, and then shows all of it. So a misspelt level is a filter too, one that
/// hides everything: hence a target must be given its level.
pub(crate) fn check_log_level(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::builder().parse(filter);
    parsed.map_err(|error| error.to_string())?;
    let words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    for word in words.filter(|word| !word.contains(['=', '['])) {
        if word.parse::<LevelFilter>().is_err() {
            let levels = "off, error, warn, info, debug, trace";
            return Err(format!("{word} is none of {levels}, and no target=level"));
        }
    }
    Ok(())
}
