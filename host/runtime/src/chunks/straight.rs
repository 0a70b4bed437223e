//! Long code without a call or a loop.
//!
//! A function may have some megabytes of instructions in a row, each of which touches another page.

use wasmparser::Operator;

/// Instructions that may run without a look at the fuel.
pub(super) const LONGEST: u32 = 2000;

/// Counts, through one function, the instructions that may have run since fuel was last looked at.
#[derive(Default)]
pub(super) struct Straight {
    /// Instructions so far.
    seen: u32,
    /// The most that may have run.
    run: u32,
    /// For each block that is open: what may have run when it began, and how many had been seen.
    blocks: Vec<(u32, u32)>,
}

impl Straight {
    /// Whether fuel should be looked at before the next instruction, which then counts as done.
    pub(super) fn is_long_before(&mut self, next: &Operator<'_>) -> bool {
        let is_long = self.run >= LONGEST;
        if is_long {
            self.run = 0;
        }
        self.seen = self.seen.saturating_add(1);
        self.run = self.run.saturating_add(1);
        match next {
            Operator::Loop { .. } => {
                self.run = 0;
                self.blocks.push((0, self.seen));
            }
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                self.blocks.push((self.run, self.seen));
            }
            Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::CallRef { .. } => {
                self.run = 0;
            }
            // Whoever comes here may have jumped over every look that was taken within.
            Operator::End => {
                let (run, seen) = self.blocks.pop().unwrap_or_default();
                self.run = run.saturating_add(self.seen - seen);
            }
            _ => {}
        }
        is_long
    }
}
