//! How metrics are written: the text format of Prometheus, in which 4.1.5 writes them, or OpenMetrics where that is asked for.

use std::fmt::{Display, Write};

use hyper::header::{ACCEPT, HeaderMap};

use crate::metrics::{BUCKETS_MS, Histogram};

/// The form of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Prometheus' text format, byte for byte as 4.1.5 writes it.
    Prometheus,
    /// OpenMetrics 1.0, for those who ask for it. Names of samples are the same.
    OpenMetrics,
}

impl Form {
    /// What these headers ask for: OpenMetrics only where it is named, and not below plain text.
    pub(crate) fn wanted(headers: &HeaderMap) -> Form {
        let (mut open, mut plain) = (0.0_f32, 0.0_f32);
        let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for kind in lists.flat_map(|list| list.split(',')) {
            let mut parts = kind.split(';').map(str::trim);
            let place = match parts.next() {
                Some("application/openmetrics-text") => &mut open,
                Some("text/plain") => &mut plain,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            *place = place.max(weight);
        }
        if open > 0.0 && open >= plain { Form::OpenMetrics } else { Form::Prometheus }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Form::Prometheus => "text/plain",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page that is being written. All samples carry the same first labels.
pub(crate) struct Page {
    labels: String,
    form: Form,
    text: String,
}

// Writing to a String cannot fail.
impl Page {
    pub(crate) fn new(labels: String, form: Form) -> Page {
        Page { labels, form, text: String::with_capacity(8192) }
    }

    pub(crate) fn end(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let (family, kind) = self.family(name, kind);
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    /// OpenMetrics knows a counter by the end of its samples' name, and names its family without that end. Counters of 4.1.5
    /// that have other names are of type `unknown` there, as their names are what dashboards ask for.
    fn family<'a>(&self, name: &'a str, kind: &'a str) -> (&'a str, &'a str) {
        match (self.form, kind, name.strip_suffix("_total")) {
            (Form::OpenMetrics, "counter", Some(family)) => (family, kind),
            (Form::OpenMetrics, "counter", None) => (name, "unknown"),
            _ => (name, kind),
        }
    }

    pub(crate) fn metric(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.labelled(name, &[], value);
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help, value);
    }

    pub(crate) fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }

    /// A gauge, the meaning of whose values follows its help: in a line of its own, which OpenMetrics does not allow.
    pub(crate) fn with_values(&mut self, name: &str, help: &str, values: &str, value: impl Display) {
        let between = match self.form {
            Form::Prometheus => "\n#",
            Form::OpenMetrics => "",
        };
        self.gauge(name, &format!("{help}{between} Values: {values}"), value);
    }

    pub(crate) fn labelled(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels = self.labels(labels);
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }

    fn labels(&self, more: &[(&str, &str)]) -> String {
        let mut labels = self.labels.clone();
        for (key, value) in more {
            let _ = write!(labels, ",{key}=\"{}\"", escaped(value));
        }
        labels
    }

    pub(crate) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let (cumulative, count, sum_s) = histogram.read();
        let labels = self.labels(labels);
        for (end_ms, number) in BUCKETS_MS.iter().zip(cumulative) {
            let end_s = *end_ms as f64 / 1000.0;
            let end = match self.form {
                Form::Prometheus => end_s.to_string(),
                // Whole numbers have a point there: 1.0.
                Form::OpenMetrics => format!("{end_s:?}"),
            };
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{end}\"}} {number}");
        }
        let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {sum_s}\n{name}_count{{{labels}}} {count}");
    }
}

/// A label's value by the rules of both formats.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn openmetrics_is_given_to_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let rows: [(&[&str], Form); 8] = [
            (&[], Form::Prometheus),
            (&["*/*"], Form::Prometheus),
            (&["text/plain"], Form::Prometheus),
            (&["application/openmetrics-text"], Form::OpenMetrics),
            (&[prometheus], Form::OpenMetrics),
            (&["application/openmetrics-text; version=1.0.0; q=0"], Form::Prometheus),
            (&["text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4"], Form::Prometheus),
            (&["text/plain; q=0.3", "application/openmetrics-text; q=0.5"], Form::OpenMetrics),
        ];
        for (values, expected) in rows {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(Form::wanted(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn openmetrics_has_its_own_rules() {
        let histogram = Histogram::default();
        histogram.record(std::time::Duration::from_millis(700));
        let mut page = Page::new("scope=\"a\"".to_owned(), Form::OpenMetrics);
        page.metric("ours_total", "counter", "Ours.", 1);
        page.metric("theirs", "counter", "Theirs.", 2);
        page.with_values("state", "State.", "0=a, 1=b", 1);
        page.labelled("state", &[("of", "a \"b\"\n\\")], 0);
        page.histogram("took", &[], &histogram);
        let text = page.end();
        let expected = "# HELP ours Ours.\n# TYPE ours counter\nours_total{scope=\"a\"} 1\n\
                        # HELP theirs Theirs.\n# TYPE theirs unknown\ntheirs{scope=\"a\"} 2\n\
                        # HELP state State. Values: 0=a, 1=b\n# TYPE state gauge\nstate{scope=\"a\"} 1\n\
                        state{scope=\"a\",of=\"a \\\"b\\\"\\n\\\\\"} 0\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("took_bucket{scope=\"a\",le=\"1.0\"} 1\n"), "{text}");
        assert!(text.ends_with("took_count{scope=\"a\"} 1\n# EOF\n"), "{text}");
    }
}
