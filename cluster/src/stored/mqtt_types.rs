//! Stored forms of what packets carry.

use bytes::Bytes;
use mqtt::{
    ClientId, Filter, PublishProperties, QoS, RetainHandling, SubscribeOptions, SubscriptionIds,
    TemplateError, Templates, Text, Topic, Will,
};

use super::wire::{Reader, Sink, Stored, Why, choice, put_len, record};

/// A text is at most 65 535 bytes: two bytes of length. It is always copied, for many texts live
/// longer than what they came with.
fn put_text(text: &Text, out: &mut impl Sink) {
    let len = u16::try_from(text.len()).expect("Text::parse takes no longer one");
    len.put(out);
    out.bytes(text.as_bytes());
}

fn text_bytes(from: &mut Reader<'_>) -> Result<Bytes, Why> {
    let len = u16::get(from)?;
    from.take(len.into()).map(Bytes::copy_from_slice)
}

impl Stored for Text {
    fn put(&self, out: &mut impl Sink) {
        put_text(self, out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        Self::parse(text_bytes(from)?).map_err(|error| Why::Text(error.to_string()))
    }
}

macro_rules! texts {
    ($($text:ident)*) => {$(
        impl Stored for $text {
            fn put(&self, out: &mut impl Sink) {
                put_text(self.text(), out);
            }
            fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
                Self::try_from(text_bytes(from)?).map_err(|error| Why::Text(error.to_string()))
            }
        }
    )*};
}

texts!(ClientId Topic Filter);

/// As a list of texts.
impl Stored for Templates {
    fn put(&self, out: &mut impl Sink) {
        put_len(self.iter().len(), out);
        for template in self.iter() {
            put_len(template.len(), out);
            out.bytes(template.as_bytes());
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let texts = Vec::<String>::get(from)?;
        Self::parse(texts).map_err(|error| match error {
            // Short, whatever they are.
            TemplateError::Template { why, .. } => Why::Text(format!("device template: {why}")),
            TemplateError::Overlap { .. } => {
                Why::Text("device templates name two clients for one topic".to_owned())
            }
            TemplateError::TooMany => Why::Text(error.to_string()),
        })
    }
}

choice!(QoS, "QoS" { 0 => AtMostOnce, 1 => AtLeastOnce, 2 => ExactlyOnce });
choice!(RetainHandling, "retain handling" { 0 => Send, 1 => SendIfNew, 2 => DoNotSend });

record!(SubscribeOptions {
    qos,
    no_local,
    retain_as_published,
    retain_handling,
});

record!(PublishProperties {
    payload_is_utf8,
    message_expiry_s,
    response_topic,
    correlation_data,
    content_type,
    user_properties,
});

record!(Will {
    topic,
    payload,
    qos,
    retain,
    delay_s,
    properties,
});

impl Stored for SubscriptionIds {
    fn put(&self, out: &mut impl Sink) {
        super::wire::put_len(self.len(), out);
        for id in self {
            id.put(out);
        }
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        Vec::get(from).map(Self::from_vec)
    }
}
