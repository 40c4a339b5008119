//! Every pass against the reference interpreter, for every task and guidance.

use crate::common::{plan, small};
use ccl_model::{Guidance, Task};
use ccl_passes::Options;

#[test]
fn no_pass_changes_a_result() {
    let options = Options { validate: true, schedule_rows: 4, ..Options::default() };
    for extra in ["", r#", "window_center": "proportional", "window_edge": "shift""#, r#", "window_edge": "replicate""#]
    {
        let config = small(extra);
        for task in Task::ALL {
            for guidance in Guidance::ALL {
                if !extra.is_empty() && guidance != Guidance::TwoPass {
                    continue;
                }
                let plan = plan(&config, task, guidance, "3x4x4@13", &options);
                assert!(!plan.report.events.is_empty());
            }
        }
    }
}
