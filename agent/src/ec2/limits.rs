//! The limits of this instance's type: from the built-in table, from what EC2 said once, else from EC2.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipam_core::{InstanceLimits, InstanceTable, TableError};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Ec2, Ec2Error, Ec2Result};
use crate::cause::chain;

/// EC2's answer about this node's type, in the journal's directory: it outlives a reboot, as the type does.
const FILE: &str = "instance-limits.json";
const VERSION: u32 = 1;

/// The first pause after a refusal by EC2, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What only another version of the agent can mend is not asked for more often than this.
const LONG_PAUSE: Duration = Duration::from_secs(300);

/// The limits of an instance type could not be found.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// Neither the built-in table nor EC2 knows the type.
    #[error(
        "instance type {0} is in neither the built-in table nor DescribeInstanceTypes of this region, so how many \
         interfaces and addresses it takes is not known: run an agent whose table has it"
    )]
    Unknown(String),
    /// It is not in the built-in table, and EC2 could not be asked.
    #[error(
        "instance type {instance_type} is not in the built-in table, and EC2 could not be asked; the node's role \
         needs ec2:DescribeInstanceTypes"
    )]
    NotAsked {
        /// The type.
        instance_type: String,
        /// What EC2 answered.
        #[source]
        source: Ec2Error,
    },
    /// The built-in table has a broken row.
    #[error("the built-in table of instance types cannot be read")]
    Table(#[from] TableError),
}

impl LimitsError {
    /// How long to wait after this many attempts; `draw`, from 0 to 1, keeps the nodes of a cluster apart.
    #[must_use]
    pub fn pause(&self, attempts: u32, draw: f64) -> Duration {
        let (first, longest) = PAUSES;
        let span = match self {
            Self::NotAsked { .. } => {
                first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(longest)
            }
            Self::Unknown(_) | Self::Table(_) => LONG_PAUSE,
        };
        span.mul_f64(0.5 + draw.clamp(0.0, 1.0))
    }
}

/// The limits of `instance_type`. At most one DescribeInstanceTypes in the life of a node: what EC2 says is kept in
/// `dir`, where a file that is torn, of another type or of a newer agent counts as none.
///
/// # Errors
///
/// Where neither the table nor EC2 knows the type, or EC2 could not be asked.
pub async fn limits_of(
    ec2: &dyn Ec2,
    instance_type: &str,
    table: InstanceTable<'_>,
    dir: &Path,
) -> Result<InstanceLimits, LimitsError> {
    look_up(instance_type, table, dir, || ec2.instance_limits(instance_type)).await
}

async fn look_up(
    instance_type: &str,
    table: InstanceTable<'_>,
    dir: &Path,
    ask: impl AsyncFnOnce() -> Ec2Result<Option<InstanceLimits>>,
) -> Result<InstanceLimits, LimitsError> {
    if let Some(limits) = table.find(instance_type)? {
        return Ok(limits);
    }
    let path = dir.join(FILE);
    let kept = read(&path, instance_type);
    if let Kept::Usable(limits) = kept {
        return Ok(limits);
    }
    let limits = match ask().await {
        Ok(Some(limits)) => limits,
        Ok(None) => return Err(LimitsError::Unknown(instance_type.to_owned())),
        Err(source) => {
            return Err(LimitsError::NotAsked { instance_type: instance_type.to_owned(), source });
        }
    };
    info!(instance_type, enis = limits.enis(), ipv4_per_eni = limits.ipv4_per_eni, "EC2 told the limits");
    // Under the name that was asked for: it is what the next start looks for.
    let limits = InstanceLimits { instance_type: instance_type.to_owned(), ..limits };
    if !matches!(kept, Kept::Newer)
        && let Err(error) = write(&path, &limits)
    {
        warn!(path = %path.display(), error = chain(&error), "the next start must ask EC2 for the limits again");
    }
    Ok(limits)
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    limits: InstanceLimits,
}

/// The version alone: the rest may look otherwise in another one.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

enum Kept {
    Usable(InstanceLimits),
    /// None, or nothing that can be used.
    Nothing,
    /// A newer agent's, to be left as it is.
    Newer,
}

fn read(path: &Path, instance_type: &str) -> Kept {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), error = chain(&error), "it is asked for again");
            }
            return Kept::Nothing;
        }
    };
    match serde_json::from_slice::<Head>(&text) {
        Ok(head) if head.version > VERSION => return Kept::Newer,
        Ok(_) => {}
        Err(_) => return Kept::Nothing,
    }
    match serde_json::from_slice::<Stored>(&text) {
        Ok(Stored { limits, .. })
            if limits.instance_type == instance_type && limits.enis() > 0 && limits.ipv4_per_eni > 0 =>
        {
            Kept::Usable(limits)
        }
        _ => Kept::Nothing,
    }
}

fn write(path: &Path, limits: &InstanceLimits) -> io::Result<()> {
    let stored = Stored { version: VERSION, limits: limits.clone() };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let fresh: PathBuf = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&stored)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::time::Duration;

    use ipam_core::{CardLimit, InstanceLimits, InstanceTable, Operation};

    use super::{FILE, LimitsError, look_up};
    use crate::ec2::{Ec2Error, Ec2Result};

    const KIND: &str = "x9.large";

    fn limits(enis: u32) -> InstanceLimits {
        InstanceLimits {
            instance_type: KIND.to_owned(),
            ipv4_per_eni: 10,
            ipv6_per_eni: 10,
            vcpus: 2,
            prefixes: true,
            default_card: 0,
            cards: vec![CardLimit { index: 0, max_enis: enis }],
        }
    }

    /// One start of an agent: what it finds, and how often it asks EC2, which answers so.
    async fn start(
        dir: &Path,
        table: &str,
        answer: Ec2Result<Option<InstanceLimits>>,
    ) -> (Result<InstanceLimits, LimitsError>, u32) {
        let asked = Cell::new(0);
        let found = look_up(KIND, InstanceTable::new(table), dir, async || {
            asked.set(asked.get() + 1);
            answer
        })
        .await;
        (found, asked.get())
    }

    const EMPTY: &str = "header\n";

    #[tokio::test]
    async fn the_table_comes_first() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let table = "header\nx9.large,3,10,10,2,nitro,0,0,3\n";
        let (found, asked) = start(dir.path(), table, Ok(Some(limits(7)))).await;
        assert_eq!((found.expect("known").enis(), asked), (3, 0));
        assert!(!dir.path().join(FILE).exists());
    }

    #[tokio::test]
    async fn ec2_is_asked_once_in_the_life_of_a_node() {
        let dir = tempfile::tempdir().expect("temporary directory");
        // As on a node that never ran an agent.
        let dir = dir.path().join("lib/tidepool");
        let (first, asked) = start(&dir, EMPTY, Ok(Some(limits(7)))).await;
        assert_eq!((first.expect("told"), asked), (limits(7), 1));
        let (second, asked) = start(&dir, EMPTY, Err(throttled())).await;
        assert_eq!((second.expect("kept"), asked), (limits(7), 0));
        let names: Vec<_> = std::fs::read_dir(&dir).expect("readable").collect();
        assert_eq!(names.len(), 1, "nothing else is left: {names:?}");
    }

    #[tokio::test]
    async fn what_is_kept_is_not_believed_blindly() {
        let other = InstanceLimits { instance_type: "x9.huge".to_owned(), ..limits(7) };
        let empty = InstanceLimits { cards: Vec::new(), ..limits(7) };
        let stored =
            |limits: &InstanceLimits| serde_json::json!({"version": 1, "limits": limits}).to_string();
        let whole = stored(&limits(7));
        let cases = [
            ("empty", String::new()),
            ("torn", whole[..whole.len() / 2].to_owned()),
            ("no JSON", "\u{0}\u{0}\u{0}".to_owned()),
            ("another type, after a resize", stored(&other)),
            ("no interface at all", stored(&empty)),
            ("no version", whole.replace("version", "revision")),
        ];
        for (what, text) in cases {
            let dir = tempfile::tempdir().expect("temporary directory");
            std::fs::write(dir.path().join(FILE), text).expect("writable");
            let (found, asked) = start(dir.path(), EMPTY, Ok(Some(limits(4)))).await;
            assert_eq!((found.expect("told").enis(), asked), (4, 1), "{what}");
            let (found, asked) = start(dir.path(), EMPTY, Ok(None)).await;
            assert_eq!((found.expect("kept").enis(), asked), (4, 0), "{what}: it was replaced");
        }
    }

    #[tokio::test]
    async fn a_newer_agents_file_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let newer = r#"{"version": 2, "limits": "in other words"}"#;
        std::fs::write(dir.path().join(FILE), newer).expect("writable");
        let (found, asked) = start(dir.path(), EMPTY, Ok(Some(limits(4)))).await;
        assert_eq!((found.expect("told").enis(), asked), (4, 1));
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).expect("readable"), newer);
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_does_not_stop_the_agent() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("writable");
        let (found, asked) = start(&file, EMPTY, Ok(Some(limits(4)))).await;
        assert_eq!((found.expect("told").enis(), asked), (4, 1));
    }

    #[tokio::test]
    async fn refusals_name_type_and_remedy() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (unknown, _) = start(dir.path(), EMPTY, Ok(None)).await;
        let unknown = unknown.expect_err("nobody knows it");
        assert!(unknown.to_string().contains("x9.large"), "{unknown}");
        assert!(unknown.to_string().contains("run an agent whose table has it"), "{unknown}");
        let (away, _) = start(dir.path(), EMPTY, Err(throttled())).await;
        let away = away.expect_err("nobody could be asked");
        assert!(away.to_string().contains("x9.large"), "{away}");
        assert!(away.to_string().contains("ec2:DescribeInstanceTypes"), "{away}");
        assert!(!dir.path().join(FILE).exists(), "a refusal is not kept");

        let pauses = |error: &LimitsError| [1, 2, 3, 7, 100].map(|n| error.pause(n, 0.5).as_secs());
        assert_eq!(pauses(&away), [1, 2, 4, 60, 60]);
        assert_eq!(pauses(&unknown), [300; 5]);
        assert_eq!(away.pause(1, 0.0), Duration::from_millis(500));
    }

    fn throttled() -> Ec2Error {
        Ec2Error::answered(Operation::DescribeInstanceTypes, 503, "RequestLimitExceeded", "")
    }
}
