//! Plans on disk: what is saved runs the same, and damage is told with the file's name.

use crate::common::*;
use ccl_runtime::{CpuBackend, planfile};

#[test]
fn a_saved_plan_is_the_same_plan() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("field.cclp");
    for plan in [field(2), prompt(), field(3)] {
        planfile::save(&path, &plan)?;
        assert_eq!(planfile::load(&path)?, *plan);
    }
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 1, "nothing else is left behind");
    session(&CpuBackend::new(Some(1))?, planfile::load(&path)?.into())?;
    Ok(())
}

#[test]
fn damage_is_told_with_the_file() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("field.cclp");
    says(planfile::load(&path), &["field.cclp", "cannot read"]);
    says(planfile::load(directory.path()), &["cannot read"]);
    says(planfile::save(&directory.path().join("no/such/field.cclp"), &field(2)), &["field.cclp"]);
    planfile::save(&path, &field(2))?;
    let good = std::fs::read(&path)?;
    let damaged: [(&str, Vec<u8>); 6] = [
        ("no plan", b"PK\x03\x04 something else".to_vec()),
        ("cut off", good[..good.len() - 1].to_vec()),
        ("cut off", good[..10].to_vec()),
        ("cut off", Vec::new()),
        ("too many", [good.clone(), vec![0]].concat()),
        ("damaged", good.iter().enumerate().map(|(i, &b)| if i == good.len() / 2 { b ^ 1 } else { b }).collect()),
    ];
    for (part, bytes) in damaged {
        std::fs::write(&path, bytes)?;
        says(planfile::load(&path), &["field.cclp", part]);
    }
    let mut unsafe_plan = (*field(2)).clone();
    unsafe_plan.scratch_bytes = 0;
    let target = directory.path().join("never.cclp");
    says(planfile::save(&target, &unsafe_plan), &["never.cclp"]);
    assert!(!target.exists());
    Ok(())
}
