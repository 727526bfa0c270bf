//! The XML that EC2 answers in: elements only, no attributes but the namespace.

use std::fmt::{self, Display, Write};

use super::error::ApiError;

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// The inside of an element, growing.
#[derive(Debug, Default)]
pub(crate) struct Xml(String);

impl Xml {
    /// An element with text.
    pub(crate) fn text(&mut self, name: &str, value: impl Display) {
        self.open(name);
        // Writing to a string never fails.
        let _ = write!(Escaped(&mut self.0), "{value}");
        self.close(name);
    }

    /// An element with text, or nothing.
    pub(crate) fn optional(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// An element with elements.
    pub(crate) fn element(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.open(name);
        fill(self);
        self.close(name);
    }

    /// A list: `<name><item>…</item>…</name>`, empty lists included.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Self, T),
    ) {
        self.open(name);
        for item in items {
            self.open("item");
            fill(self, item);
            self.close("item");
        }
        self.close(name);
    }

    /// A list of texts: `<name><item>text</item>…</name>`.
    pub(crate) fn texts(&mut self, name: &str, items: impl IntoIterator<Item = impl Display>) {
        self.open(name);
        for item in items {
            self.text("item", item);
        }
        self.close(name);
    }

    fn open(&mut self, name: &str) {
        self.0.extend(["<", name, ">"]);
    }

    fn close(&mut self, name: &str) {
        self.0.extend(["</", name, ">"]);
    }

    /// The whole answer to `action`.
    pub(crate) fn into_response(self, action: &str, request_id: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{NAMESPACE}\">\
             <requestId>{request_id}</requestId>{}</{action}Response>",
            self.0
        )
    }
}

/// The whole answer that refuses a request.
pub(crate) fn refusal(error: &ApiError, request_id: &str) -> String {
    let mut inside = Xml::default();
    inside.element("Errors", |xml| {
        xml.element("Error", |xml| {
            xml.text("Code", &error.code);
            xml.text("Message", &error.message);
        });
    });
    inside.text("RequestID", request_id);
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response>{}</Response>", inside.0)
}

/// Text with the characters replaced that mean something in XML, and those that
/// XML 1.0 cannot hold.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&apos;"),
                '\r' => self.0.push_str("&#13;"),
                '\t' | '\n' => self.0.push(c),
                c if c.is_control() => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_named_after_its_action() {
        let mut xml = Xml::default();
        xml.list("xSet", ["a", "b"], |xml, key| xml.text("key", key));
        xml.texts("ySet", ["<&>"]);
        assert_eq!(
            xml.into_response("DescribeX", "1"),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeXResponse \
             xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>1</requestId><xSet>\
             <item><key>a</key></item><item><key>b</key></item></xSet><ySet><item>&lt;&amp;&gt;\
             </item></ySet></DescribeXResponse>"
        );
    }

    #[test]
    fn a_refusal_has_code_and_message() {
        let text = refusal(&ApiError::missing("A<B"), "7");
        assert!(text.ends_with(
            "<Response><Errors><Error><Code>MissingParameter</Code><Message>The request must \
             contain the parameter A&lt;B</Message></Error></Errors><RequestID>7</RequestID>\
             </Response>"
        ));
    }

    #[test]
    fn characters_that_xml_cannot_hold_are_replaced() {
        let mut xml = Xml::default();
        xml.text("v", "a\u{0}b'\"\r");
        assert_eq!(xml.0, "<v>a\u{fffd}b&apos;&quot;&#13;</v>");
    }
}
