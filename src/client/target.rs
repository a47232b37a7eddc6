//! What a request is for: a path and a query.

use form_urlencoded::byte_serialize;

/// A path of the API with its query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target(String);

impl Target {
    /// A path without a query.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// The same with one more parameter, whatever characters its value has.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.extend(byte_serialize(name.as_bytes()));
        self.0.push('=');
        self.0.extend(byte_serialize(value.as_bytes()));
        self
    }

    /// As it is sent.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn values_survive_the_query() {
        let target =
            Target::new("/v1/capture").with("count", "1").with("filter", "host fd00::1 and (tcp)&x=%");
        assert_eq!(target.as_str(), "/v1/capture?count=1&filter=host+fd00%3A%3A1+and+%28tcp%29%26x%3D%25");
    }
}
