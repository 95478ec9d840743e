//! What a node says of itself to those who ask whether it is to be sent requests.

/// One thing that a node looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    /// A word on how it is, or on what is wrong.
    pub how: Result<String, String>,
    /// Whether the node can neither serve nor forward requests while it is wrong. What does not count is for
    /// people to see: were it to count, one region without a quorum would take all its nodes from clients
    /// of all other regions.
    pub counts: bool,
}

impl Check {
    /// One that takes the node out of service while it is wrong.
    #[must_use]
    pub fn decisive(name: &'static str, how: Result<String, String>) -> Self {
        Self { name, how, counts: true }
    }

    /// One that is only told.
    #[must_use]
    pub fn told(name: &'static str, how: Result<String, String>) -> Self {
        Self { name, how, counts: false }
    }

    /// What is wrong, by name.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.how.as_ref().err().map(|why| format!("{}: {why}", self.name))
    }

    /// Its line in a verbose answer.
    #[must_use]
    pub fn line(&self) -> String {
        let (sign, how) = match (&self.how, self.counts) {
            (Ok(how), _) => ('+', how),
            (Err(why), true) => ('-', why),
            (Err(why), false) => ('!', why),
        };
        format!("[{sign}] {}: {how}\n", self.name)
    }
}
