//! The tokenizer of `google/umt5-xxl`: SentencePiece unigram in Hugging Face's `tokenizer.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::AddedToken;

use crate::clean;

/// The token that ends every prompt.
const END: &str = "</s>";

/// Tokens that transformers recognises when they stand literally in a prompt, whether or not the file lists them.
const SPECIAL: [&str; 3] = ["<pad>", END, "<unk>"];

/// Letters, ligatures, circled digits, squares and fractions, which the character map takes apart.
const TRIAL: &str = "Trial: häßlich e\u{301} ﬁ ㌔㍍ ①②③ ½ ﷺ ﾊﾝｶｸ 日本語 한국어 😀";

/// What can be wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read the tokenizer {path}: {source}; give the tokenizer.json of google/umt5-xxl")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no tokenizer.
    #[error("{label} is no tokenizer.json: {problem}; download the one of google/umt5-xxl again")]
    Invalid {
        /// File name, or what stands for it.
        label: String,
        /// What the reader said.
        problem: String,
    },
    /// The vocabulary lacks the end token.
    #[error("{label} has no {END} token, so it is another model's; give the tokenizer.json of google/umt5-xxl")]
    NoEnd {
        /// File name, or what stands for it.
        label: String,
    },
    /// A prompt cannot be encoded.
    #[error("the tokenizer cannot encode the prompt: {problem}")]
    Encode {
        /// What the tokenizer said.
        problem: String,
    },
}

/// Prompt to token ids.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    end: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// The file cannot be read, or [as below](Self::from_bytes).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    /// Reads the text of a `tokenizer.json` that is in memory.
    ///
    /// # Errors
    /// The bytes are no tokenizer, or it has no `</s>`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::parse("the given text", bytes)
    }

    fn parse(label: &str, bytes: &[u8]) -> Result<Self, TokenizerError> {
        let invalid = |problem: String| TokenizerError::Invalid { label: label.to_owned(), problem };
        let read = contained(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(invalid)?;
        let mut inner = read.map_err(|e| invalid(e.to_string()))?;
        let end = inner.token_to_id(END).ok_or(TokenizerError::NoEnd { label: label.to_owned() })?;
        let listed: Vec<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        let unlisted = SPECIAL.into_iter().filter(|t| !listed.iter().any(|l| l == t) && inner.token_to_id(t).is_some());
        let unlisted: Vec<AddedToken> = unlisted.map(|token| AddedToken::from(token, true)).collect();
        inner.add_special_tokens(unlisted).map_err(|e| invalid(e.to_string()))?;
        // Length is our business: a file may have been saved with some training run's padding and truncation.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| invalid(e.to_string()))?;
        let tokenizer = Self { inner, end };
        // A damaged character map shows only when it is used: better now than after the models were loaded.
        tokenizer.ids(TRIAL).map_err(|e| invalid(e.to_string()))?;
        Ok(tokenizer)
    }

    /// Entries of the vocabulary, added tokens included; the embedding table has at least that many rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// [`clean`]s `prompt` and encodes it: at most `max_tokens` ids, the last of which is `</s>`; what is too long is
    /// cut off at the end. An empty prompt gives `</s>` alone. No padding, no begin token.
    ///
    /// # Errors
    /// `max_tokens` is zero, or the tokenizer's own error.
    pub fn encode(&self, prompt: &str, max_tokens: usize) -> Result<Vec<u32>, TokenizerError> {
        if max_tokens == 0 {
            return Err(TokenizerError::Encode { problem: "max_tokens is 0; at least 1 is needed, for </s>".into() });
        }
        let text = clean(prompt);
        // Words are encoded independently of each other, so the beginning of a huge text is enough.
        let mut chars = max_tokens.saturating_mul(8).max(4096);
        loop {
            let part = whole_words(&text, chars);
            let mut ids = self.ids(part)?;
            let complete = part.len() == text.len();
            if !complete && ids.len() < max_tokens {
                chars = chars.saturating_mul(4);
                continue;
            }
            ids.truncate(max_tokens - 1);
            ids.push(self.end);
            return Ok(ids);
        }
    }

    /// All ids of `text` without the end token.
    fn ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let failed = |problem: String| TokenizerError::Encode { problem };
        let encoding = contained(|| self.inner.encode_fast(text, false)).map_err(failed)?;
        Ok(encoding.map_err(|e| failed(e.to_string()))?.get_ids().to_vec())
    }
}

/// Runs the library, which panics where a file's character map is damaged; the panic becomes a message.
fn contained<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // Nothing that was half changed is used afterwards: reading makes a new value, encoding changes none.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| "its character map is damaged".to_owned())
}

/// The first `chars` characters of `text`, and the rest of the word they end in.
fn whole_words(text: &str, chars: usize) -> &str {
    match text.char_indices().nth(chars) {
        None => text,
        Some((at, _)) => &text[..text[at..].find(' ').map_or(text.len(), |space| at + space)],
    }
}
