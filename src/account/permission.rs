//! Permissions of roles, and the built-in roles.

use std::collections::BTreeSet;

/// A permission. The names are those of version 8.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    ActionUpdate,
    SampleStateUpdate,
    SampleAdd,
    SampleUpdate,
    SampleDelete,
    UserRead,
    UserReadAll,
    UserUpdateAll,
    UserAdd,
    UserDelete,
    RolesManage,
    UploadData,
}

impl Permission {
    /// All permissions, with the names under which roles store them.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::ActionUpdate, "action_update"),
        (Self::SampleStateUpdate, "sample_state_update"),
        (Self::SampleAdd, "sample_add"),
        (Self::SampleUpdate, "sample_update"),
        (Self::SampleDelete, "sample_delete"),
        (Self::UserRead, "user_read"),
        (Self::UserReadAll, "user_read_all"),
        (Self::UserUpdateAll, "user_update_all"),
        (Self::UserAdd, "user_add"),
        (Self::UserDelete, "user_delete"),
        (Self::RolesManage, "roles_manage"),
        (Self::UploadData, "upload_data"),
    ];

    /// Whether the permission is about people, files or the audit log, which belong to no cohort: a role that is
    /// limited to some cohorts does not grant it.
    #[must_use]
    pub fn is_of_whole_study(self) -> bool {
        use Permission::{RolesManage, UploadData, UserAdd, UserDelete, UserReadAll, UserUpdateAll};
        matches!(self, UserReadAll | UserUpdateAll | UserAdd | UserDelete | RolesManage | UploadData)
    }

    /// The name under which roles store it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(permission, _)| *permission == self).map_or("", |(_, name)| name)
    }

    /// The permissions in a role's comma-separated text. Unknown names permit nothing.
    #[must_use]
    pub fn parse_all(text: &str) -> BTreeSet<Self> {
        let known = |name: &str| Self::ALL.iter().find(|(_, known)| *known == name.trim()).map(|(one, _)| *one);
        text.split(',').filter_map(known).collect()
    }

    /// The built-in roles with their permissions.
    #[must_use]
    pub fn first_roles() -> [(&'static str, Vec<Self>); 3] {
        // Permission to read all accounts includes the user's own: `user_read` is not listed next to `user_read_all`,
        // as in version 8.1.
        let all =
            Self::ALL.map(|(permission, _)| permission).into_iter().filter(|one| *one != Self::UserRead).collect();
        let superuser = vec![Self::SampleStateUpdate, Self::SampleAdd, Self::UserRead, Self::UploadData];
        [("admin", all), ("superuser", superuser), ("user", vec![Self::UserRead])]
    }
}
