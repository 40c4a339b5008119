//! Prompts: a colour and three symbols, and the text features that stand for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::WorldError;
use crate::space::{COLOURS, PITCHES, SYMBOLS, TEXT_DIM, TEXT_TOKENS, word};

/// The colour of a ball and the timbre of its sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// The first direction of [`COLOUR`](crate::space::COLOUR).
    Red,
    /// The second.
    Green,
    /// The third.
    Blue,
    /// The fourth.
    Yellow,
}

impl Colour {
    /// All colours, by number.
    pub const ALL: [Self; COLOURS] = [Self::Red, Self::Green, Self::Blue, Self::Yellow];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
        }
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Colour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == text)
            .ok_or_else(|| format!("no colour; known are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// What a clip is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prompt {
    /// Colour of the ball, timbre of the sound.
    pub colour: Colour,
    /// Pitches of the impacts, from 0 to 3: impact `k` has number `k % 3`.
    pub symbols: [usize; SYMBOLS],
}

impl Prompt {
    /// A prompt.
    ///
    /// # Errors
    /// When a symbol is no pitch.
    pub fn new(colour: Colour, symbols: [usize; SYMBOLS]) -> Result<Self, WorldError> {
        match symbols.iter().find(|&&s| s >= PITCHES) {
            Some(s) => Err(WorldError::option("pitches", format!("{s} is no pitch; known are 0 to {}", PITCHES - 1))),
            None => Ok(Self { colour, symbols }),
        }
    }

    /// The pitch of an impact.
    pub fn pitch(&self, impact: usize) -> usize {
        self.symbols[impact % SYMBOLS]
    }

    /// Text features `[TEXT_TOKENS, TEXT_DIM]`: the colour's word, then the symbols'.
    pub fn text(&self) -> Vec<f32> {
        let mut text = word(0, self.colour.index()).to_vec();
        for (slot, symbol) in self.symbols.into_iter().enumerate() {
            text.extend_from_slice(word(slot + 1, symbol));
        }
        text
    }

    /// The prompt that text features stand for: in every slot the nearest word.
    ///
    /// # Errors
    /// When there are not `TEXT_TOKENS * TEXT_DIM` values, or a token is near no word (an empty prompt, or another world's).
    pub fn of_text(text: &[f32]) -> Result<Self, WorldError> {
        if text.len() != TEXT_TOKENS * TEXT_DIM {
            let problem = format!("has {} values, a prompt of this world has [{TEXT_TOKENS}, {TEXT_DIM}]", text.len());
            return Err(WorldError::tensor("text", problem));
        }
        let mut symbols = [0; TEXT_TOKENS];
        for (slot, (symbol, token)) in symbols.iter_mut().zip(text.chunks_exact(TEXT_DIM)).enumerate() {
            let far = |s: usize| -> f64 {
                token.iter().zip(word(slot, s)).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            };
            let (best, distance) = (0..COLOURS)
                .map(|s| (s, far(s)))
                .fold((0, f64::INFINITY), |best, this| if this.1 < best.1 { this } else { best });
            // Words are about sqrt(2 * TEXT_DIM) apart, and that far squared is 64.
            if distance > TEXT_DIM as f64 / 4.0 {
                let problem = format!("is no prompt of this world: token {slot} is near none of its words");
                return Err(WorldError::tensor("text", problem));
            }
            *symbol = best;
        }
        let [colour, symbols @ ..] = symbols;
        Self::new(Colour::ALL[colour], symbols)
    }
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.symbols;
        write!(f, "{} ball, pitches {a},{b},{c}", self.colour)
    }
}
