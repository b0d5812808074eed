//! What roles may hold, and the roles that exist at first start.

use std::collections::BTreeSet;

/// Something that somebody may do. The names are those of the existing product.
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
    /// All of them, with the names in which roles keep them.
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

    /// Whether it is about people, files or the audit trail, which belong to no cohort: it does not come with a role for
    /// certain cohorts only.
    #[must_use]
    pub fn is_of_whole_study(self) -> bool {
        use Permission::{RolesManage, UploadData, UserAdd, UserDelete, UserReadAll, UserUpdateAll};
        matches!(self, UserReadAll | UserUpdateAll | UserAdd | UserDelete | RolesManage | UploadData)
    }

    /// The name in which roles keep it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(permission, _)| *permission == self).map_or("", |(_, name)| name)
    }

    /// The permissions in a role's text, which separates them by commas. Unknown names permit nothing.
    #[must_use]
    pub fn parse_all(text: &str) -> BTreeSet<Self> {
        let known = |name: &str| Self::ALL.iter().find(|(_, known)| *known == name.trim()).map(|(one, _)| *one);
        text.split(',').filter_map(known).collect()
    }

    /// The roles of the first start with their permissions.
    #[must_use]
    pub fn first_roles() -> [(&'static str, Vec<Self>); 3] {
        // Who reads all accounts reads the own one too: `user_read` is not listed beside `user_read_all`, as in the
        // existing product.
        let all =
            Self::ALL.map(|(permission, _)| permission).into_iter().filter(|one| *one != Self::UserRead).collect();
        let superuser = vec![Self::SampleStateUpdate, Self::SampleAdd, Self::UserRead, Self::UploadData];
        [("admin", all), ("superuser", superuser), ("user", vec![Self::UserRead])]
    }
}
