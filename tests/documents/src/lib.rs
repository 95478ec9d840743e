//! The commands in the documents: which pages there are, the blocks on them, and the commands of a block.
//!
//! Three tests read them. `tests/edge` runs what can be run against nodes on one machine, `tests/kubernetes` what
//! is for a Kubernetes, and the operator's asks the programs whether they know such calls. What a block is, and
//! where it is told where it runs, is said here alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a block of commands may call itself. Only `sh` is run: a block by another of these names is marked with
/// it, and nobody would notice what rots there.
const SHELLS: [&str; 6] = ["sh", "bash", "shell", "console", "shell-session", "zsh"];

/// Pages outside of `docs`, in the order in which a newcomer reads them.
const FIRST: [&str; 4] =
    ["README.md", "CONTRIBUTING.md", "deploy/README.md", "helm/flotilla/README.md"];

/// A block of commands on a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its path in the repository.
    pub page: String,
    /// Of the fence that begins it, from 1.
    pub line: usize,
    /// The words behind `sh`; empty: it is run as it stands.
    pub mark: String,
    /// Without the indentation of the block.
    pub text: String,
}

/// A command of a block, perhaps of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Where it begins on the page, from 1.
    pub line: usize,
    /// Without comments.
    pub text: String,
}

/// The pages of a repository, those first that a newcomer reads first.
///
/// # Errors
/// When the folder of the documents cannot be read.
pub fn pages(repository: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    Ok(FIRST.into_iter().map(str::to_owned).chain(found).collect())
}

/// The blocks of commands on a page.
///
/// # Errors
/// When the page cannot be read.
pub fn blocks(repository: &Path, page: &str) -> io::Result<Vec<Block>> {
    Ok(blocks_of(page, &fs::read_to_string(repository.join(page))?))
}

fn blocks_of(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let body = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        let body: String =
            body.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect();
        let mut words = info.split_whitespace();
        let language = words.next().unwrap_or_default();
        if SHELLS.contains(&language) {
            let mark = match words.collect::<Vec<_>>().join(" ") {
                mark if language == "sh" => mark,
                mark => format!("{language} {mark}").trim_end().to_owned(),
            };
            blocks.push(Block { page: page.to_owned(), line: number + 1, mark, text: body });
        }
    }
    blocks
}

impl Block {
    /// Its commands, one by one: a command ends with its line, unless a quote is open or a `\` says otherwise.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        // The first line of the text is the one after the fence.
        let (mut line, mut begins) = (self.line + 1, self.line + 1);
        let mut text = String::new();
        let mut quote = None;
        let mut characters = self.text.chars().peekable();
        while let Some(character) = characters.next() {
            match (character, quote) {
                ('\\', None | Some('"')) => {
                    text.push(character);
                    let escaped = characters.next();
                    line += usize::from(escaped == Some('\n'));
                    text.extend(escaped);
                    continue;
                }
                ('\'' | '"', None) => quote = Some(character),
                (_, Some(open)) if character == open => quote = None,
                ('#', None) if text.is_empty() || text.ends_with(char::is_whitespace) => {
                    while characters.next_if(|next| *next != '\n').is_some() {}
                    continue;
                }
                ('\n', _) => line += 1,
                _ => {}
            }
            if character == '\n' && quote.is_none() {
                let text = std::mem::take(&mut text).trim().to_owned();
                if !text.is_empty() {
                    commands.push(Command { line: begins, text });
                }
                begins = line;
            } else {
                text.push(character);
            }
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "A page.\n\
        \n\
        ```sh kubernetes\n\
        kubectl get kvc        # whose node's word\n\
        # nothing\n\
        kubectl patch kvc kv -p '{\"a\":[\n\
        \x20 \"#1\"]}'\n\
        \n\
        kubectl get kvc kv -o yaml \\\n\
        \x20 | grep \"it's\" \n\
        ```\n\
        ```yaml\n\
        a: 1\n\
        ```\n\
        - a list\n\
        \x20 ```bash\n\
        \x20 true\n\
        \x20 ```\n\
        ```sh\n\
        date\n\
        ```\n";

    #[test]
    fn blocks_are_found_with_their_line_and_their_mark() {
        let blocks = blocks_of("a.md", PAGE);
        let told: Vec<_> = blocks.iter().map(|block| (block.line, &block.mark[..])).collect();
        assert_eq!(told, [(3, "kubernetes"), (16, "bash"), (19, "")]);
        assert_eq!(blocks[1].text, "true\n", "without its indentation");
    }

    #[test]
    fn commands_go_on_over_lines_where_a_shell_goes_on() {
        let told = blocks_of("a.md", PAGE)[0].commands();
        let told: Vec<_> = told.iter().map(|command| (command.line, &command.text[..])).collect();
        let want = [
            (4, "kubectl get kvc"),
            (6, "kubectl patch kvc kv -p '{\"a\":[\n  \"#1\"]}'"),
            (9, "kubectl get kvc kv -o yaml \\\n  | grep \"it's\""),
        ];
        assert_eq!(told, want);
    }
}
