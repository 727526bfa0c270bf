//! Pages of Describe operations. A token names the last thing of its page, so
//! that things which come and go between two pages move nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::params::Params;

/// What is asked of paging.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paging {
    max_results: Option<usize>,
    after: Option<String>,
    /// What the token must have been made for: operation and filters.
    bound_to: String,
}

/// The sizes of pages that an operation takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageSizes {
    pub(crate) least: usize,
    pub(crate) most: usize,
}

impl PageSizes {
    pub(crate) const fn new(least: usize, most: usize) -> Self {
        Self { least, most }
    }
}

impl Paging {
    /// Takes `MaxResults` and `NextToken`. `ids` names the parameter of ids,
    /// which cannot be given together with a page size.
    pub(crate) fn parse(params: &mut Params, sizes: PageSizes, ids: &str) -> Result<Self, ApiError> {
        let max_results: Option<usize> = params.parsed("MaxResults")?;
        if let Some(max) = max_results
            && !(sizes.least..=sizes.most).contains(&max)
        {
            return Err(ApiError::invalid(format!(
                "Value ( {max} ) for parameter maxResults is invalid. Expecting a value between {} and {}.",
                sizes.least, sizes.most
            )));
        }
        if max_results.is_some() && params.has(ids) {
            return Err(ApiError::combination(format!(
                "The parameter {ids} cannot be used with the parameter MaxResults"
            )));
        }
        let bound_to = bound_to(params);
        let after = match params.text("NextToken") {
            None => None,
            Some(token) => Some(open(&token, &bound_to).ok_or_else(|| {
                ApiError::new("InvalidNextToken", format!("The token '{token}' is invalid"))
            })?),
        };
        Ok(Self { max_results, after, bound_to })
    }

    /// This page of `things`, which are sorted by `key`, and the next one's token.
    pub(crate) fn cut<T>(
        &self,
        things: impl Iterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> (Vec<T>, Option<String>) {
        let mut rest = things
            .skip_while(|thing| self.after.as_ref().is_some_and(|after| key(thing) <= *after))
            .peekable();
        let max = self.max_results.unwrap_or(usize::MAX);
        let page: Vec<T> = rest.by_ref().take(max).collect();
        let more = rest.peek().is_some();
        let token = page.last().filter(|_| more).map(|last| seal(&key(last), &self.bound_to));
        (page, token)
    }
}

/// Everything that must be the same on every page.
fn bound_to(params: &Params) -> String {
    let mut fixed = Sha256::new();
    for pair in params.fingerprint().split_inclusive('\0').collect::<Vec<_>>().chunks(2) {
        if !matches!(pair[0].trim_end_matches('\0'), "MaxResults" | "NextToken") {
            pair.iter().for_each(|part| fixed.update(part.as_bytes()));
        }
    }
    fixed.update(params.action().as_bytes());
    URL_SAFE_NO_PAD.encode(&fixed.finalize()[..12])
}

fn seal(last: &str, bound_to: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{bound_to}:{last}"))
}

fn open(token: &str, bound_to: &str) -> Option<String> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (bound, last) = text.split_once(':')?;
    (bound == bound_to).then(|| last.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PageSizes = PageSizes::new(5, 1000);

    fn paging(form: &str) -> Result<Paging, ApiError> {
        Paging::parse(&mut Params::parse(form).expect("well formed"), SIZES, "Id")
    }

    fn page(paging: &Paging, range: std::ops::Range<u32>) -> (Vec<u32>, Option<String>) {
        paging.cut(range, |n| format!("{n:03}"))
    }

    #[test]
    fn pages_follow_one_another() {
        let (first, token) = page(&paging("Action=D&MaxResults=5").expect("right"), 0..12);
        assert_eq!(first, [0, 1, 2, 3, 4]);
        let token = token.expect("more");
        let form = format!("Action=D&MaxResults=7&NextToken={token}");
        // What was deleted meanwhile does not move the rest.
        let (second, token) = page(&paging(&form).expect("right"), 2..12);
        assert_eq!((second, token), ((5..12).collect(), None));
    }

    #[test]
    fn without_a_size_all_is_one_page() {
        let (all, token) = page(&paging("Action=D").expect("right"), 0..2000);
        assert_eq!((all.len(), token), (2000, None));
    }

    #[test]
    fn faults_of_paging_are_refused() {
        let (_, token) = page(&paging("Action=D&MaxResults=5").expect("right"), 0..12);
        let token = token.expect("more");
        for (form, code) in [
            ("Action=D&MaxResults=4".to_owned(), "InvalidParameterValue"),
            ("Action=D&MaxResults=1001".to_owned(), "InvalidParameterValue"),
            ("Action=D&MaxResults=x".to_owned(), "InvalidParameterValue"),
            ("Action=D&MaxResults=5&Id.1=a".to_owned(), "InvalidParameterCombination"),
            ("Action=D&NextToken=nonsense".to_owned(), "InvalidNextToken"),
            (format!("Action=E&NextToken={token}"), "InvalidNextToken"),
            (format!("Action=D&NextToken={token}&Filter.1.Name=x"), "InvalidNextToken"),
        ] {
            assert_eq!(paging(&form).expect_err(&form).code, code, "{form}");
        }
    }
}
