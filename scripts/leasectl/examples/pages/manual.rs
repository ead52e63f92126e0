// SPDX-License-Identifier: GPL-2.0
//! From a page of `scripts/doc` to a man page.
//!
//! The page is Markdown: headings of two levels, paragraphs, lists, indented blocks, and tables
//! whose first row is a heading. Tables become tables of `tbl`; the first line makes `man` run it.

/// The man page, in the language of `man`.
pub fn man_page(name: &str, summary: &str, section: u8, markdown: &str) -> String {
    let title = name.to_uppercase();
    let name = escape(name);
    let mut out = format!("'\\\" t\n.TH {title} {section}\n.SH NAME\n{name} \\- {summary}\n");
    out += ".SH DESCRIPTION\n";
    let mut lines = markdown.lines().skip(1).peekable();
    while let Some(line) = lines.next() {
        // What belongs to an element goes on until the line for which this is false.
        let mut rest = |goes_on: &dyn Fn(&str) -> bool| {
            let mut rest = Vec::new();
            while let Some(next) = lines.next_if(|next| goes_on(next)) {
                rest.push(next);
            }
            rest
        };
        if let Some(heading) = line.strip_prefix("## ") {
            out += &format!(".SH {}\n", inline(&heading.to_uppercase()));
        } else if let Some(heading) = line.strip_prefix("### ") {
            out += &format!(".SS {}\n", inline(heading));
        } else if line.starts_with('|') {
            let mut rows = vec![line];
            rows.extend(rest(&|next| next.starts_with('|')));
            out += &table(&rows);
        } else if let Some(first) = line.strip_prefix("    ") {
            let mut code = vec![first];
            let more = rest(&|next| next.starts_with("    "));
            code.extend(more.iter().filter_map(|next| next.get(4..)));
            let code: Vec<_> = code.iter().map(|line| literal(line)).collect();
            out += &format!(".PP\n.RS 4\n.EX\n{}\n.EE\n.RE\n", code.join("\n"));
        } else if let Some((mark, first)) = item(line) {
            let text = joined(first, &rest(&|next| next.starts_with(' ')));
            out += &format!(".IP {mark} 4\n{}\n", inline(&text));
        } else if !line.is_empty() {
            let text = joined(line, &rest(&|next| !next.is_empty()));
            out += &format!(".PP\n{}\n", inline(&text));
        }
    }
    out
}

/// The mark and the text of an item of a list.
fn item(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix("* ") {
        return Some(("\\(bu", text));
    }
    let (number, text) = line.split_once(". ")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some((number, text))
}

fn joined(first: &str, rest: &[&str]) -> String {
    let mut text = first.to_owned();
    for line in rest {
        text.push(' ');
        text.push_str(line.trim_start());
    }
    text
}

/// A table: the first row is the heading, the second one only separates.
fn table(rows: &[&str]) -> String {
    let cells = |row: &str| -> Vec<String> {
        let row = row.trim().trim_matches('|');
        row.split('|').map(|cell| inline(cell.trim())).collect()
    };
    let columns = cells(rows[0]).len();
    let format = |font: &str| vec![font; columns - 1].join(" ");
    let mut out = format!(
        ".PP\n.TS\ntab(@);\n{} lbx\n{} lx.\n",
        format("lb"),
        format("l")
    );
    let mut rows = rows.iter().map(|row| cells(row));
    out += &rows.next().unwrap_or_default().join("@");
    out.push('\n');
    for row in rows.skip(1) {
        let blocks: Vec<_> = row.iter().map(|cell| format!("T{{\n{cell}\nT}}")).collect();
        out += &format!("{}\n", blocks.join("@"));
    }
    out + ".TE\n"
}

/// Text with its fonts; links keep their words.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut is_bold = false;
    let mut is_italic = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((code, after)) = rest.strip_prefix('`').and_then(|all| all.split_once('`')) {
            out += &format!("\\fB{}\\fR", escape(code));
            rest = after;
        } else if let Some((words, after)) = link(rest) {
            out += &inline(words);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("**") {
            is_bold = !is_bold;
            out += if is_bold { "\\fB" } else { "\\fR" };
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            is_italic = !is_italic;
            out += if is_italic { "\\fI" } else { "\\fR" };
            rest = after;
        } else {
            out += &escape(first.encode_utf8(&mut [0; 4]));
            rest = &rest[first.len_utf8()..];
        }
    }
    guarded(out)
}

/// The words of a link, and what stands behind it.
fn link(text: &str) -> Option<(&str, &str)> {
    let (words, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (_, after) = rest.split_once(')')?;
    (!words.contains(']')).then_some((words, after))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

fn literal(line: &str) -> String {
    guarded(escape(line))
}

/// A line that begins with a dot or a quote would be a request.
fn guarded(line: String) -> String {
    if line.starts_with(['.', '\'']) {
        return format!("\\&{line}");
    }
    line
}
