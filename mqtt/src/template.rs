//! Templates of topics that belong to one client each, such as `cmd/{client_id}/#`.

use std::sync::Arc;

use crate::{ClientId, Filter, FilterError, Topic};

/// Templates of one set.
pub const TEMPLATES_MAX: usize = 8;
/// Bytes of a template.
pub const TEMPLATE_BYTES_MAX: usize = 128;

/// The level that stands for a client's identifier.
const CLIENT_ID: &str = "{client_id}";

/// A filter with one level `{client_id}`: of the topics that it matches, each belongs to the client
/// that this level names.
///
/// The first level is literal and does not begin with `$`, so no `$`-topic is anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<str>);

impl Template {
    /// Checks a template.
    ///
    /// # Errors
    /// Says what is wrong with it, and gives it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let wrong = |why| TemplateError::Template {
            template: text.chars().take(TEMPLATE_BYTES_MAX).collect(),
            why,
        };
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(wrong(TemplateFault::TooLong(text.len())));
        }
        let first = text.split('/').next().unwrap_or_default();
        if first.starts_with(['+', '#', '$']) || first == CLIENT_ID {
            return Err(wrong(TemplateFault::FirstLevel));
        }
        let is_named = |level: &&str| *level == CLIENT_ID;
        if text.split('/').filter(is_named).count() != 1 {
            return Err(wrong(TemplateFault::NotOneClient));
        }
        let literals = || text.split('/').filter(|level| *level != CLIENT_ID);
        if literals().any(|level| level.contains(['{', '}'])) {
            return Err(wrong(TemplateFault::Braces));
        }
        let template = Self(text.into());
        template
            .filter_of("+")
            .map_err(|error| wrong(TemplateFault::Filter(error)))?;
        Ok(template)
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The template with a client in its place; `None` for a client identifier that is no level of a
    /// topic, because `/`, `+` or `#` is in it.
    pub fn filter_for(&self, client: &ClientId) -> Option<Filter> {
        if client.contains(['/', '+', '#']) {
            return None;
        }
        self.filter_of(client).ok()
    }

    /// The client identifier that the topic names where the template is matched by it.
    pub fn owner<'t>(&self, topic: &'t Topic) -> Option<&'t str> {
        let mut owner = None;
        let mut levels = topic.levels();
        for wanted in self.0.split('/') {
            if wanted == "#" {
                return owner;
            }
            let level = levels.next()?;
            match wanted {
                CLIENT_ID if level.is_empty() => return None,
                CLIENT_ID => owner = Some(level),
                "+" => {}
                literal if literal == level => {}
                _ => return None,
            }
        }
        levels.next().is_none().then_some(owner).flatten()
    }

    /// The client identifier to which all topics that the filter matches belong by this template.
    fn owner_of_filter<'f>(&self, filter: &'f Filter) -> Option<&'f str> {
        let mut owner = None;
        let mut levels = filter.as_str().split('/');
        for wanted in self.0.split('/') {
            if wanted == "#" {
                return owner;
            }
            let level = levels.next()?;
            match wanted {
                CLIENT_ID if matches!(level, "" | "+" | "#") => return None,
                CLIENT_ID => owner = Some(level),
                "+" if level == "#" => return None,
                "+" => {}
                literal if literal == level => {}
                _ => return None,
            }
        }
        levels.next().is_none().then_some(owner).flatten()
    }

    fn filter_of(&self, level: &str) -> Result<Filter, FilterError> {
        Filter::try_from(self.0.replacen(CLIENT_ID, level, 1).as_str())
    }

    /// Where the client's level stands.
    fn client_level(&self) -> Option<usize> {
        self.0.split('/').position(|level| level == CLIENT_ID)
    }
}

/// A few templates of which no topic is matched for two clients; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Templates(Arc<[Template]>);

impl Templates {
    /// Checks a set of templates, of which there may be none.
    ///
    /// # Errors
    /// Says which template is wrong and why.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, TemplateError> {
        let mut templates: Vec<Template> = Vec::new();
        for text in texts {
            let template = Template::parse(text.as_ref())?;
            if templates.len() == TEMPLATES_MAX {
                return Err(TemplateError::TooMany);
            }
            for other in &templates {
                if other.client_level() != template.client_level() && overlap(other, &template) {
                    return Err(TemplateError::Overlap {
                        one: other.0.clone(),
                        other: template.0,
                    });
                }
            }
            templates.push(template);
        }
        Ok(Self(templates.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The templates as they were written, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(Template::as_str)
    }

    /// The identifier of the client that a topic belongs to.
    pub fn owner<'t>(&self, topic: &'t Topic) -> Option<&'t str> {
        self.0.iter().find_map(|template| template.owner(topic))
    }

    /// The identifier of the client to which every topic that the filter matches belongs. Nobody has
    /// a shared filter.
    pub fn owner_of_filter<'f>(&self, filter: &'f Filter) -> Option<&'f str> {
        let mut templates = self.0.iter();
        templates.find_map(|template| template.owner_of_filter(filter))
    }
}

/// Whether a topic is matched by both.
fn overlap(one: &Template, other: &Template) -> bool {
    let filter = |of: &Template| {
        of.filter_of("+")
            .expect("it was looked at when it was read")
    };
    filter(one).overlaps(&filter(other))
}

/// Why templates are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// One is none.
    #[error("device template {template:?}: {why}")]
    Template {
        /// The template, or as much of it as one may have.
        template: Box<str>,
        /// What is wrong.
        why: TemplateFault,
    },
    /// More than [`TEMPLATES_MAX`].
    #[error("more than {TEMPLATES_MAX} device templates")]
    TooMany,
    /// Two name different clients for one topic.
    #[error("device templates {one:?} and {other:?} can name two clients for one topic")]
    Overlap {
        /// One.
        one: Box<str>,
        /// The other.
        other: Box<str>,
    },
}

/// What is wrong with a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// More than [`TEMPLATE_BYTES_MAX`].
    #[error("{0} bytes exceed {TEMPLATE_BYTES_MAX}")]
    TooLong(usize),
    /// The first level is not literal, or begins with `$`.
    #[error("the first level must be literal and not begin with $")]
    FirstLevel,
    /// None or more than one.
    #[error("exactly one level must be {{client_id}}")]
    NotOneClient,
    /// A brace in another level.
    #[error("{{client_id}} must be alone in its level, and is the only thing in braces")]
    Braces,
    /// It is no filter with a client in its place.
    #[error(transparent)]
    Filter(FilterError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn templates(texts: &[&str]) -> Templates {
        Templates::parse(texts).expect("good templates")
    }

    fn topic(text: &str) -> Topic {
        Topic::try_from(text).expect("a topic")
    }

    fn filter(text: &str) -> Filter {
        Filter::try_from(text).expect("a filter")
    }

    #[test]
    fn a_template_that_is_none_is_refused_with_the_reason() {
        let long = format!("cmd/{{client_id}}/{}", "x".repeat(TEMPLATE_BYTES_MAX));
        for (text, why) in [
            ("{client_id}/cmd", "the first level must be literal"),
            ("+/{client_id}", "the first level must be literal"),
            ("$SYS/{client_id}", "the first level must be literal"),
            (
                "$share/g/cmd/{client_id}",
                "the first level must be literal",
            ),
            ("#", "the first level must be literal"),
            ("", "exactly one level must be {client_id}"),
            ("cmd/#", "exactly one level must be {client_id}"),
            (
                "cmd/{client_id}/{client_id}",
                "exactly one level must be {client_id}",
            ),
            (
                "cmd/dev-{client_id}",
                "exactly one level must be {client_id}",
            ),
            ("cmd/{client_id}/{device}", "must be alone in its level"),
            (
                "cmd/{client_id}/x-{client_id}",
                "must be alone in its level",
            ),
            ("cmd/{client_id}/#/x", "# is not alone in the last level"),
            ("cmd/{client_id}/x+", "+ is not alone in its level"),
            (&long, "144 bytes exceed 128"),
        ] {
            let error = Template::parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn there_are_eight_templates_at_most() {
        let texts = |count| (0..count).map(|n| format!("cmd{n}/{{client_id}}"));
        assert_eq!(Templates::parse(texts(8)).expect("eight").iter().len(), 8);
        assert_eq!(Templates::parse(texts(9)), Err(TemplateError::TooMany));
    }

    #[test]
    fn templates_that_could_name_two_clients_for_one_topic_are_refused() {
        let error = Templates::parse(["cmd/{client_id}/#", "cmd/+/{client_id}"]);
        let error = error
            .expect_err("cmd/a/b would be of a and of b")
            .to_string();
        assert!(error.contains("two clients for one topic"), "{error}");
        // The same level is the same client; other literals are other topics.
        templates(&["cmd/{client_id}/#", "cmd/{client_id}", "cfg/x/{client_id}"]);
    }

    #[test]
    fn a_topic_belongs_to_the_client_that_it_names() {
        let all = templates(&["cmd/{client_id}/#", "cfg/+/{client_id}/set"]);
        for (of, owner) in [
            ("cmd/a", Some("a")),
            ("cmd/a/", Some("a")),
            ("cmd/a/b/c", Some("a")),
            ("cfg/x/a/set", Some("a")),
            ("cfg//a/set", Some("a")),
            ("cmd", None),
            ("cmd//x", None),
            ("cfg/x/a", None),
            ("cfg/x/a/set/", None),
            ("Cmd/a", None),
            ("$SYS/cmd/a", None),
        ] {
            assert_eq!(all.owner(&topic(of)), owner, "{of}");
        }
        assert_eq!(Templates::default().owner(&topic("cmd/a")), None);
    }

    #[test]
    fn a_filter_belongs_to_the_client_that_has_all_its_topics() {
        let all = templates(&["cmd/{client_id}/#", "cfg/+/{client_id}/set"]);
        for (of, owner) in [
            ("cmd/a/#", Some("a")),
            ("cmd/a", Some("a")),
            ("cmd/a/+/x", Some("a")),
            ("cfg/+/a/set", Some("a")),
            ("cfg/x/a/set", Some("a")),
            ("cmd/#", None),
            ("cmd/+/#", None),
            ("cmd/+", None),
            ("cmd//#", None),
            ("#", None),
            ("+/a/#", None),
            ("cfg/#", None),
            ("cfg/x/a/#", None),
            ("cfg/x/a/+", None),
            ("$share/g/cmd/a/#", None),
        ] {
            assert_eq!(all.owner_of_filter(&filter(of)), owner, "{of}");
        }
    }

    #[test]
    fn a_client_whose_identifier_is_no_level_has_no_filter() {
        let template = Template::parse("cmd/{client_id}/#").expect("a template");
        let client = |id: &str| ClientId::try_from(id).expect("a client id");
        let filter_for = |id| template.filter_for(&client(id));
        assert_eq!(filter_for("a"), Some(filter("cmd/a/#")));
        assert_eq!(filter_for("$a {b}"), Some(filter("cmd/$a {b}/#")));
        for id in ["a/b", "+", "a+", "#"] {
            assert_eq!(filter_for(id), None, "{id}");
        }
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[ab]", Just("c".to_owned())]
    }

    fn topics() -> impl Strategy<Value = String> {
        let all = prop::collection::vec(level(), 0..4);
        all.prop_map(|levels| [vec!["t".to_owned()], levels].concat().join("/"))
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop_oneof![4 => level(), 1 => Just("+".to_owned())];
        let all = (prop::collection::vec(level, 0..4), any::<bool>());
        all.prop_map(|(mut levels, hash)| {
            levels.insert(0, "t".to_owned());
            levels.extend(hash.then(|| "#".to_owned()));
            levels.join("/")
        })
    }

    fn template_texts() -> impl Strategy<Value = String> {
        (filters(), 0..4_usize).prop_filter_map("no template", |(text, at)| {
            let mut levels: Vec<_> = text.split('/').collect();
            levels.insert((at + 1).min(levels.len()), CLIENT_ID);
            let text = levels.join("/");
            Template::parse(&text).is_ok().then_some(text)
        })
    }

    proptest! {
        /// The owner of a topic is the one client whose filter matches it.
        #[test]
        fn a_topic_is_of_the_client_whose_filter_matches_it(
            text in template_texts(), of in topics(), client in "[abc]",
        ) {
            let template = Template::parse(&text).unwrap();
            let (of, client) = (topic(&of), ClientId::try_from(client.as_str()).unwrap());
            let own = template.filter_for(&client).unwrap();
            prop_assert_eq!(own.matches(&of), template.owner(&of) == Some(client.as_str()));
            prop_assert_eq!(template.owner_of_filter(&own), Some(client.as_str()));
        }

        /// Whatever a filter of a client matches, in a set of templates, is this client's.
        #[test]
        fn all_topics_of_an_owned_filter_have_one_owner(
            texts in prop::collection::vec(template_texts(), 1..3),
            wanted in filters(), of in topics(),
        ) {
            let Ok(all) = Templates::parse(&texts) else { return Ok(()) };
            let (wanted, of) = (filter(&wanted), topic(&of));
            if let Some(owner) = all.owner_of_filter(&wanted) && wanted.matches(&of) {
                prop_assert_eq!(all.owner(&of), Some(owner));
            }
        }
    }
}
