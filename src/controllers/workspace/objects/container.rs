//! Parts that the containers of a workspace share: variables, volumes, and the container with the operator's image.

use super::Target;
use crate::api::GATEWAY_CA_ANNOTATION;
use crate::gateway;
use crate::reports;
use crate::settings::WorkspaceSettings;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar,
    ObjectFieldSelector, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, ResourceRequirements,
    SecretVolumeSource, SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The mode of files with a credential. The containers' user reads them through its group.
const CREDENTIAL_MODE: i32 = 0o440;
/// The file with a token of the pod's ServiceAccount.
pub(super) const TOKEN_FILE: &str = "token";
/// The file with certificates to trust.
pub(super) const CA_FILE: &str = "ca.crt";
/// How long a token of the pod's ServiceAccount lives. The kubelet renews it before.
const TOKEN_SECONDS: i64 = 3600;

/// A volume of the pod, by its name.
#[derive(Clone, Copy)]
pub(super) struct VolumeName(&'static str);

pub(super) const WORKSPACE_VOLUME: VolumeName = VolumeName("workspace");
pub(super) const TOKEN_VOLUME: VolumeName = VolumeName("token");
pub(super) const GATEWAY_VOLUME: VolumeName = VolumeName("gateway");
pub(super) const SCRATCH_VOLUME: VolumeName = VolumeName("scratch");
pub(super) const TOOLS_VOLUME: VolumeName = VolumeName("tools");
pub(super) const IDENTITY_VOLUME: VolumeName = VolumeName("identity");

/// A container's access to a volume.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl VolumeName {
    pub(super) fn at(self, path: &str, access: Access) -> VolumeMount {
        VolumeMount {
            name: self.0.to_owned(),
            mount_path: path.to_owned(),
            read_only: Some(access == Access::Read),
            ..VolumeMount::default()
        }
    }

    fn volume(self) -> Volume {
        Volume { name: self.0.to_owned(), ..Volume::default() }
    }
}

/// The volumes of the pod and of the Job's pod. The claim and the Secret have the same name.
pub(super) fn volumes(name: &str, target: &Target) -> Vec<Volume> {
    let claim = PersistentVolumeClaimVolumeSource { claim_name: name.to_owned(), read_only: None };
    let credentials = if target.gateway.is_some() {
        let sources = vec![identity(gateway::identity::AUDIENCE), authority()];
        Volume { projected: Some(projected(sources)), ..GATEWAY_VOLUME.volume() }
    } else {
        let secret = SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            default_mode: Some(CREDENTIAL_MODE),
            ..SecretVolumeSource::default()
        };
        Volume { secret: Some(secret), ..TOKEN_VOLUME.volume() }
    };
    vec![
        Volume { persistent_volume_claim: Some(claim), ..WORKSPACE_VOLUME.volume() },
        credentials,
        Volume { empty_dir: Some(EmptyDirVolumeSource::default()), ..SCRATCH_VOLUME.volume() },
    ]
}

/// The additional volumes of the pod.
pub(super) fn volumes_of_pod() -> Vec<Volume> {
    let tools = EmptyDirVolumeSource { size_limit: Some(quantity("16Mi")), medium: None };
    vec![
        Volume { empty_dir: Some(tools), ..TOOLS_VOLUME.volume() },
        Volume { projected: Some(projected(vec![identity(reports::AUDIENCE)])), ..IDENTITY_VOLUME.volume() },
    ]
}

/// A token of the pod's ServiceAccount. It names the pod, and only services for this audience accept it.
fn identity(audience: &str) -> VolumeProjection {
    let token = ServiceAccountTokenProjection {
        audience: Some(audience.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.to_owned(),
    };
    VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }
}

/// The gateway's certificates, from the pod's annotation.
fn authority() -> VolumeProjection {
    let field_path = format!("metadata.annotations['{GATEWAY_CA_ANNOTATION}']");
    let file = DownwardAPIVolumeFile {
        path: CA_FILE.to_owned(),
        field_ref: Some(ObjectFieldSelector { field_path, api_version: None }),
        ..DownwardAPIVolumeFile::default()
    };
    let files = DownwardAPIProjection { items: Some(vec![file]) };
    VolumeProjection { downward_api: Some(files), ..VolumeProjection::default() }
}

fn projected(sources: Vec<VolumeProjection>) -> ProjectedVolumeSource {
    ProjectedVolumeSource { default_mode: Some(CREDENTIAL_MODE), sources: Some(sources) }
}

/// A variable with a literal value. Kubernetes would replace `$(NAME)`, and reads `$$` as `$`, also in `$$(NAME)`.
pub(super) fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.replace('$', "$$")), value_from: None }
}

fn quantity(text: &str) -> Quantity {
    Quantity(text.to_owned())
}

/// The security context of every container.
pub(super) fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// A container with the operator's image.
pub(super) fn ours(
    name: &str,
    settings: &WorkspaceSettings,
    args: Vec<String>,
    env: Vec<EnvVar>,
    mounts: Vec<VolumeMount>,
) -> Container {
    let quantities = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, amount)| ((*name).to_owned(), quantity(amount))).collect::<BTreeMap<_, _>>())
    };
    Container {
        name: name.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.pull_policy.clone()),
        command: Some(vec!["landfall".to_owned()]),
        args: Some(args),
        env: Some(env),
        volume_mounts: Some(mounts),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..security() }),
        resources: Some(ResourceRequirements {
            requests: quantities(&[("cpu", "10m"), ("memory", "32Mi")]),
            limits: quantities(&[("memory", "1Gi")]),
            claims: None,
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}
