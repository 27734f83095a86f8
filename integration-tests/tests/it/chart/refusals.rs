//! Wrong values are refused, in words that say what is allowed.

use super::{chart, helm, template};

#[test]
fn wrong_values_are_refused_with_what_is_allowed() {
    let Some(helm) = helm("refusals") else { return };
    let none: &[&str] = &[];
    for (set, words) in [
        (
            "storage.replica=4",
            &["/storage", "'replica' not allowed"][..],
        ),
        (
            "storage.capacity=lots",
            &["/storage/capacity", "KiB|MiB|GiB|TiB"],
        ),
        (
            "storage.persistence.size=20GB",
            &["/storage/persistence/size"],
        ),
        ("master.replicas=2", &["/master/replicas", "must be 1"]),
        ("log.format=xml", &["/log/format", "'text', 'json'"]),
        ("ports.gateway=80", &["/ports/gateway", "1,024"]),
        ("gateway.idleTimeout=1m", &["/gateway/idleTimeout"]),
        (
            "storage.capacity=20GiB",
            &["storage.capacity 20GiB is too much for storage.persistence.size 20Gi"],
        ),
        (
            "tls.existingSecret=a,tls.certManager.enabled=true",
            &["contradict each other"],
        ),
        (
            "tls.certManager.enabled=true",
            &["tls.certManager.issuerRef.name"],
        ),
        ("gateway.ingress.enabled=true", &["gateway.ingress.host"]),
        (
            "worker.autoscaling.enabled=true,worker.autoscaling.minReplicas=9",
            &["minReplicas 9 is above maxReplicas 8"],
        ),
        ("tracing.uiUrl=javascript:x", &["/tracing/uiUrl"]),
        ("tracing.samplerArg=2", &["/tracing/samplerArg"]),
        (
            r"worker.podLabels.app\.kubernetes\.io/component=x",
            &["app.kubernetes.io/component"],
        ),
        (
            "worker.extraEnv[0].name=LOG_LEVEL,worker.extraEnv[0].value=DEBUG",
            &["worker.extraEnv: LOG_LEVEL is set by the chart"],
        ),
        ("tls.leafDays=1", &["/tls/leafDays"]),
        ("tls.enabled=true", none),
    ] {
        let output = template(&helm, &chart(), &["--set", set]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), words.is_empty(), "{set}: {told}");
        // Versions of helm differ in how they show numbers.
        let found = |word: &&&str| told.contains(**word) || told.contains(&word.replace(',', ""));
        assert!(words.iter().all(|word| found(&word)), "{set}: {told}");
    }
}
