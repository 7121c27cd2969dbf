//! Errors as a person sees them: what, why, and what to do about it.

/// A command failed.
#[derive(Debug)]
pub struct Error {
    /// What failed, then why, then why that.
    chain: Vec<String>,
    /// The server's word for programs.
    code: Option<String>,
    hint: Option<String>,
}

/// What a command gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a cause.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            chain: vec![what.into()],
            code: None,
            hint: None,
        }
    }

    /// Adds what caused it.
    #[must_use]
    pub fn because(mut self, cause: impl std::error::Error) -> Self {
        self.chain.push(cause.to_string());
        let mut source = cause.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some libraries repeat the cause in their own text.
            if self.chain.last() != Some(&text) {
                self.chain.push(text);
            }
            source = cause.source();
        }
        self
    }

    /// Adds other errors that caused it; without a word and a hint of its own it has those of the first.
    #[must_use]
    pub fn because_of(mut self, causes: impl IntoIterator<Item = Self>) -> Self {
        for cause in causes {
            for text in cause.chain {
                // The same may be wrong with all of them.
                if !self.chain.contains(&text) {
                    self.chain.push(text);
                }
            }
            self.code = self.code.or(cause.code);
            self.hint = self.hint.or(cause.hint);
        }
        self
    }

    /// Adds the server's word.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this is the server's word for it.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// As text for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (number, line) in self.chain.iter().enumerate() {
            text.push_str(if number == 0 {
                "error: "
            } else {
                "  caused by: "
            });
            text.push_str(line);
            text.push('\n');
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }

    /// As JSON for programs.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "error": { "code": self.code, "chain": self.chain, "hint": self.hint } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_several_says_each_once() {
        let one = |what: &str| Error::new(what).code("x").hint("wait");
        let all = Error::new("not done: 1, 2, 3").because_of([one("a"), one("b"), one("a")]);
        assert_eq!(
            all.text(),
            "error: not done: 1, 2, 3\n  caused by: a\n  caused by: b\nhint: wait\n"
        );
        assert!(all.is("x"));
    }
}
