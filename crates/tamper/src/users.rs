//! Accounts as they are against those in the image, by `passwd`, `shadow` and `group` (passwd(5), shadow(5), group(5)).

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Finding, Kind};
use crate::glob;

/// So many lines of a file are read.
const LINES: usize = 4096;

/// The three files' texts. The third, `shadow`, holds secrets: nothing of it but what it means becomes a finding.
#[derive(Clone, Default)]
pub struct Files {
    /// `passwd`
    pub passwd: String,
    /// `group`
    pub group: String,
    /// `shadow`
    pub shadow: String,
}

struct Account<'t> {
    uid: &'t str,
    gid: &'t str,
    home: &'t str,
    shell: &'t str,
}

impl Account<'_> {
    /// Without a shell it is /bin/sh.
    fn logs_in(&self) -> bool {
        let program = self.shell.rsplit('/').next().unwrap_or_default();
        !matches!(program, "nologin" | "false" | "sync" | "shutdown" | "halt")
    }

    fn describe(&self) -> String {
        format!("{}:{} {} {}", self.uid, self.gid, self.home, self.shell)
    }
}

/// Every line counts: a name that is there twice may be found by its number.
fn accounts(text: &str) -> impl Iterator<Item = (&str, Account<'_>)> {
    let read = |line| {
        let [name, _, uid, gid, _, home, shell] = fields(line)?;
        let account = Account {
            uid,
            gid,
            home,
            shell,
        };
        Some((name, account))
    };
    text.lines().take(LINES).filter_map(read)
}

fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split(':').collect::<Vec<_>>().try_into().ok()
}

/// What a field of `shadow` means.
#[derive(PartialEq, Eq)]
enum Password<'t> {
    /// Nobody gets in by it.
    Locked,
    /// Everybody does.
    Empty,
    /// Whoever knows it does.
    Set(&'t str),
}

fn passwords(text: &str) -> impl Iterator<Item = (&str, Password<'_>)> {
    fn read(line: &str) -> Option<(&str, Password<'_>)> {
        let (name, rest) = line.split_once(':')?;
        let password = match rest.split(':').next()? {
            "" => Password::Empty,
            hash if hash.starts_with(['!', '*']) => Password::Locked,
            hash => Password::Set(hash),
        };
        Some((name, password))
    }
    text.lines().take(LINES).filter_map(read)
}

fn members(text: &str) -> impl Iterator<Item = (&str, BTreeSet<&str>)> {
    let read = |line| {
        let [name, _, _, members] = fields(line)?;
        let members = members.split(',').filter(|member| !member.is_empty());
        Some((name, members.collect()))
    };
    text.lines().take(LINES).filter_map(read)
}

/// What somebody could come in by that the image doesn't have. `expected` are names of accounts, with `*`.
pub fn judge(now: &Files, baked: &Files, expected: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |name: &str, what: &str, more: Option<(&str, String)>| {
        if !glob::any(expected, name) {
            let finding = Finding::new(Kind::Users, name, what);
            findings.push(match more {
                Some((name, value)) => finding.with(name, value),
                None => finding,
            });
        }
    };

    let before: BTreeMap<_, _> = accounts(&baked.passwd).collect();
    for (name, account) in accounts(&now.passwd) {
        // The same number may be written in many ways.
        let is_root = account.uid.parse::<u64>().is_ok_and(|uid| uid == 0);
        let what = match before.get(name) {
            Some(baked) if baked.describe() == account.describe() => continue,
            Some(_) => "is not as in the image",
            None if is_root => "is new and has the superuser's id",
            None if account.logs_in() => "is new and can log in",
            None => continue,
        };
        find(name, what, Some(("account", account.describe())));
    }

    let before: BTreeMap<_, _> = passwords(&baked.shadow).collect();
    for (name, password) in passwords(&now.shadow) {
        let old = before.get(name).unwrap_or(&Password::Locked);
        let what = match password {
            Password::Locked => continue,
            _ if password == *old => continue,
            Password::Empty => "needs no password",
            Password::Set(_) => "has a password that is not the image's",
        };
        find(name, what, None);
    }

    let before: BTreeMap<_, _> = members(&baked.group).collect();
    for (group, now) in members(&now.group) {
        // A group that the image doesn't have can open nothing of the image's.
        let Some(before) = before.get(group) else {
            continue;
        };
        for member in now.difference(before) {
            find(
                member,
                "is a new member of a group",
                Some(("group", group.to_owned())),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n".into(),
            group: "root:x:0:\nwheel:x:998:\n".into(),
            shadow: "root:*:19000::::::\ndaemon:!*:19000::::::\n".into(),
        }
    }

    fn with(passwd: &str, group: &str, shadow: &str) -> Files {
        let mut files = image();
        files.passwd += passwd;
        files.group += group;
        files.shadow += shadow;
        files
    }

    fn found(now: &Files) -> Vec<(String, String)> {
        let findings = judge(now, &image(), &[]).into_iter();
        findings.map(|f| (f.subject, f.what)).collect()
    }

    #[test]
    fn an_image_is_as_it_is_and_accounts_of_services_come_and_go() {
        assert_eq!(found(&image()), []);
        let now = with(
            "chrony:x:970:970::/:/usr/bin/nologin\n",
            "chrony:x:970:chrony\n",
            "chrony:!*:1::::::\n",
        );
        assert_eq!(found(&now), []);
    }

    #[test]
    fn ways_in_are_found() {
        for (now, name, what) in [
            (
                with("toor:x:00:0::/:/usr/bin/nologin\n", "", ""),
                "toor",
                "is new and has the superuser's id",
            ),
            (
                with("eve:x:1000:1000::/home/eve:\n", "", ""),
                "eve",
                "is new and can log in",
            ),
            (
                with("daemon:x:1:1::/:/bin/sh\n", "", ""),
                "daemon",
                "is not as in the image",
            ),
            (with("", "", "root::1::::::\n"), "root", "needs no password"),
            (
                with("", "", "root:$6$x$y:1::::::\n"),
                "root",
                "has a password that is not the image's",
            ),
            (
                with("", "wheel:x:998:daemon\n", ""),
                "daemon",
                "is a new member of a group",
            ),
        ] {
            assert_eq!(found(&now), [(name.to_owned(), what.to_owned())]);
            assert_eq!(judge(&now, &image(), &[name.to_owned()]), []);
        }
    }

    #[test]
    fn no_hash_is_told() {
        let now = with("", "", "root:$6$salt$hash:1::::::\n");
        let told = serde_json::to_string(&judge(&now, &image(), &[])).unwrap();
        assert!(!told.contains("salt") && !told.contains("hash"), "{told}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9:,!*$\n]{0,200}") {
            let now = Files { passwd: text.clone(), group: text.clone(), shadow: text };
            let _ = judge(&now, &image(), &[]);
        }
    }
}
