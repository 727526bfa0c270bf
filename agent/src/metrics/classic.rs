//! The text form of a scrape: Prometheus's own, version 0.0.4.
//!
//! OpenMetrics, which the library writes, puts `_total` behind every counter. The incumbent's counters are called
//! otherwise, and its latencies are a summary, which the library lacks. In the older form every name is free, and
//! every Prometheus reads it.

/// The incumbent's names stand as they are.
const INCUMBENT: &str = "awscni_";
/// Its summary, written by the library as a histogram without buckets.
const SUMMARY: &str = "awscni_aws_api_latency_ms";

/// An OpenMetrics text in the older form.
pub(super) fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // A family's help comes before its type, on which its name depends.
    let mut help = "";
    let mut counter = "";
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            push(&mut out, sample(line, counter));
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (keyword, family) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let rest = words.next().unwrap_or("");
        match keyword {
            "HELP" => help = rest,
            "TYPE" => {
                let (suffix, kind) = match rest {
                    "counter" if family.starts_with(INCUMBENT) => ("", rest),
                    "counter" => ("_total", rest),
                    "info" => ("_info", "gauge"),
                    "histogram" if family == SUMMARY => ("", "summary"),
                    "unknown" => ("", "untyped"),
                    _ => ("", rest),
                };
                counter = if rest == "counter" { family } else { "" };
                out.push_str(&format!("# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} {kind}\n"));
            }
            // UNIT and EOF are unknown to the older form.
            _ => {}
        }
    }
    out
}

fn push(out: &mut String, (name, rest): (&str, &str)) {
    out.push_str(name);
    out.push_str(rest);
    out.push('\n');
}

/// A sample's name and what follows it.
fn sample<'a>(line: &'a str, counter: &str) -> (&'a str, &'a str) {
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    match name.strip_suffix("_total") {
        Some(bare) if bare == counter && counter.starts_with(INCUMBENT) => (bare, rest),
        _ => (name, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::classic;

    #[test]
    fn names_and_types() {
        let open = "\
# HELP tidepool_build Version.
# TYPE tidepool_build info
tidepool_build_info{version=\"1\"} 1
# HELP tidepool_cni_seconds Time.
# TYPE tidepool_cni_seconds histogram
# UNIT tidepool_cni_seconds seconds
tidepool_cni_seconds_sum 1.0
tidepool_cni_seconds_bucket{le=\"+Inf\"} 1
# HELP tidepool_add_refused Refused.
# TYPE tidepool_add_refused counter
tidepool_add_refused_total{reason=\"throttled\"} 2
# HELP awscni_reconcile_count Differences.
# TYPE awscni_reconcile_count counter
awscni_reconcile_count_total{fn=\"eniReconcileAdd\"} 3
# HELP awscni_aws_api_latency_ms Time.
# TYPE awscni_aws_api_latency_ms histogram
awscni_aws_api_latency_ms_sum{api=\"X\"} 4.5
awscni_aws_api_latency_ms_count{api=\"X\"} 1
# HELP tidepool_ready Ready.
# TYPE tidepool_ready gauge
tidepool_ready 1
# EOF
";
        let expected = "\
# HELP tidepool_build_info Version.
# TYPE tidepool_build_info gauge
tidepool_build_info{version=\"1\"} 1
# HELP tidepool_cni_seconds Time.
# TYPE tidepool_cni_seconds histogram
tidepool_cni_seconds_sum 1.0
tidepool_cni_seconds_bucket{le=\"+Inf\"} 1
# HELP tidepool_add_refused_total Refused.
# TYPE tidepool_add_refused_total counter
tidepool_add_refused_total{reason=\"throttled\"} 2
# HELP awscni_reconcile_count Differences.
# TYPE awscni_reconcile_count counter
awscni_reconcile_count{fn=\"eniReconcileAdd\"} 3
# HELP awscni_aws_api_latency_ms Time.
# TYPE awscni_aws_api_latency_ms summary
awscni_aws_api_latency_ms_sum{api=\"X\"} 4.5
awscni_aws_api_latency_ms_count{api=\"X\"} 1
# HELP tidepool_ready Ready.
# TYPE tidepool_ready gauge
tidepool_ready 1
";
        assert_eq!(classic(open), expected);
    }
}
