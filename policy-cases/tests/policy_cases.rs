//! Every bit of every file of cases, three ways.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, trial};
use policy_cases::{Report, Via, read, run};

/// Cases of others, where somebody put them beside the clone.
const THIRD_PARTY: &str = "TIDEPOOL_POLICY_CASES";
/// What those are known to hold.
const PROBES: usize = 123_669;
const OF_ITSELF: usize = 13_713;

const KERNEL: &[Need] = &[
    Need::Root,
    Need::Bpf,
    Need::NetNs,
    Need::Mounts,
    Need::Tc,
    Need::Nft,
    Need::Env("TIDEPOOL_EBPF_OBJECT"),
];
const OTHERS: &[Need] = &[Need::Env(THIRD_PARTY)];

fn main() {
    let both = || KERNEL.iter().chain(OTHERS).copied().collect::<Vec<_>>();
    kernel_test::run(vec![
        trial("own_cases_by_host", &[], || own(Via::Host)),
        trial("own_cases_by_kernel", KERNEL, || own(Via::Kernel)),
        trial("own_cases_by_packets", KERNEL, || own(Via::Packets)),
        trial("third_party_cases_by_host", OTHERS, || third_party(Via::Host)),
        trial("third_party_cases_by_kernel", &both(), || third_party(Via::Kernel)),
        trial("third_party_cases_by_packets", &both(), || third_party(Via::Packets)),
        trial("a_wrong_table_is_told", &[], wrong_tables_are_told),
        trial("a_wrong_table_is_told_by_packets", KERNEL, wrong_tables_are_told_by_packets),
    ]);
}

fn judged(name: &str, path: &Path, via: Via) -> Result<Report> {
    let mut said = Vec::new();
    let report = run(&read(path)?, via, &mut |line| said.push(line))?;
    println!("{name} by {via:?}: {} probes, {:.1} s", report.probes, report.took.as_secs_f64());
    ensure!(report.differ == 0, "{} differ:\n{}", report.differ, said[..said.len().min(20)].join("\n"));
    Ok(report)
}

fn files() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/policy");
    let mut files = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn own(via: Via) -> Result<()> {
    let files = files()?;
    ensure!(!files.is_empty(), "no file of cases");
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let report = judged(&name, &file, via).with_context(|| name.clone())?;
        ensure!(report.probes > 0, "{name} asks nothing");
    }
    Ok(())
}

/// The cases are not ours to copy; the test reads them where they are.
fn third_party(via: Via) -> Result<()> {
    let path = std::env::var_os(THIRD_PARTY).context("not set")?;
    let report = judged("the third party's cases", Path::new(&path), via)?;
    let of_itself = if via == Via::Packets { OF_ITSELF } else { 0 };
    ensure!(report.of_itself == of_itself, "{} probes of a pod to itself", report.of_itself);
    ensure!(report.probes + of_itself == PROBES, "{} probes", report.probes);
    Ok(())
}

/// Own cases with every mark turned round: every probe must differ.
fn turned() -> Result<(Vec<policy_cases::format::Case>, usize)> {
    let path = files()?.into_iter().find(|path| path.ends_with("selectors.json"));
    let mut cases = read(&path.context("no such file")?)?;
    let mut probes = 0;
    for step in cases.iter_mut().flat_map(|case| &mut case.steps) {
        step.flows.clear();
        for line in &mut step.expected {
            let (head, marks) = line.rsplit_once(' ').context("a row")?;
            let marks: String = marks.chars().map(|mark| if mark == '.' { 'X' } else { '.' }).collect();
            probes += marks.chars().count();
            *line = format!("{head} {marks}");
        }
    }
    Ok((cases, probes))
}

fn wrong_tables_are_told() -> Result<()> {
    let (cases, probes) = turned()?;
    let mut said = Vec::new();
    let report = run(&cases, Via::Host, &mut |line| said.push(line))?;
    ensure!((report.probes, report.differ) == (probes, probes), "{report}");
    ensure!(said.iter().any(|line| line.contains("denied by")), "{said:#?}");
    Ok(())
}

fn wrong_tables_are_told_by_packets() -> Result<()> {
    let (cases, _) = turned()?;
    let report = run(&cases, Via::Packets, &mut |_| ())?;
    ensure!(report.probes > 0 && report.differ == report.probes, "{report}");
    Ok(())
}
