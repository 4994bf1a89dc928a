//! How text looks on a terminal.

/// How text looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub color: bool,
    /// Columns that the summary is cut to; `None` if it is not a terminal.
    pub width: Option<usize>,
}

/// ANSI colours (ECMA-48 SGR).
#[derive(Clone, Copy)]
pub enum Paint {
    Bold,
    Red,
    Green,
    Yellow,
}

impl Style {
    /// `text` in that colour, if there are to be colours.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Bold => 1,
            Paint::Red => 31,
            Paint::Green => 32,
            Paint::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Cut `line` to the width of the terminal.
    pub(super) fn fit(self, line: &str) -> String {
        match self.width {
            Some(width) if line.chars().count() > width => {
                let kept = line.chars().take(width.saturating_sub(1));
                kept.chain(['…']).collect()
            }
            _ => line.to_owned(),
        }
    }
}
