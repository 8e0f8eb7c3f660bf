//! What is not well with a machine, each in one line with what to do.

use weights::hub::Bytes;

use super::{Diagnosis, Gpu, Verdict};

/// Reading slower than this makes streamed weights the longest part of a step.
const SLOW_DISK: f64 = 200e6;
/// Below this the smallest published model, with its encoders, cannot be pulled.
const ROOM_FOR_A_MODEL: u64 = 30_000_000_000;

/// Why a run of the demo would not work.
pub(super) fn problem(found: &Diagnosis) -> Option<String> {
    let demo = found.models.iter().find(|m| m.embedded)?;
    match &demo.verdict {
        Some(Verdict::Refused { problem }) => Some(format!("the demo would not run: {problem}")),
        _ => None,
    }
}

/// Everything else.
pub(super) fn warnings(found: &Diagnosis) -> Vec<String> {
    let mut list = Vec::new();
    if !found.gpus.is_empty() && found.devices.iter().all(|d| !d.starts_with("cuda")) {
        let Gpu { name, problem, .. } = &found.gpus[0];
        list.push(format!("{name} is not used: {}", problem.as_deref().unwrap_or("this build cannot")));
    }
    if found.cpu.instruction_set == "portable" && found.system.ends_with("x86_64") {
        list.push("this CPU has no AVX2: everything is several times slower; use a CPU from 2015 or later".to_owned());
    }
    for output in found.codecs.outputs.iter().filter(|o| !o.found) {
        let (kind, encoder) = (output.kind, output.encoder.unwrap_or_default());
        let other = found.codecs.outputs.iter().find(|o| o.found).map_or("png", |o| o.kind);
        list.push(format!(
            "FFmpeg has no {encoder}, so .{kind} cannot be written; install an FFmpeg with it, or write .{other}"
        ));
    }
    let large: Vec<_> = found.models.iter().filter(|m| !m.embedded).collect();
    let fits = |v: &Option<Verdict>| matches!(v, Some(Verdict::Fits { .. }));
    if !large.is_empty() && large.iter().all(|m| !fits(&m.verdict)) {
        let available = Bytes(found.memory.available_bytes);
        list.push(format!(
            "no large model fits the {available} of memory that are available; close programs, or plan smaller clips with --size and --num-frames"
        ));
    }
    for model in large.iter().filter(|m| m.here) {
        if let Some(Verdict::Refused { problem }) = &model.verdict {
            list.push(format!("{} is here and would not run: {problem}", model.name));
        }
    }
    if large.iter().all(|m| !m.here) {
        list.push(
            "no large model is here; `steadydance models list` shows them and `steadydance models pull NAME` gets one"
                .into(),
        );
        if found.disk.free_bytes.is_some_and(|free| free < ROOM_FOR_A_MODEL) {
            let (free, folder) = (Bytes(found.disk.free_bytes.unwrap_or_default()), found.disk.folder.display());
            list.push(format!(
                "{free} are free for {folder}, too little for a large model; free space, or name another folder in HF_HOME"
            ));
        }
    }
    let streams = |v: &Option<Verdict>| matches!(v, Some(Verdict::Fits { streamed, .. }) if !streamed.is_empty());
    if let Some(read) = found.disk.read.as_ref().filter(|read| read.bytes_per_s < SLOW_DISK)
        && large.iter().any(|m| streams(&m.verdict))
    {
        list.push(format!(
            "the disk reads {}/s, and models that do not fit the memory are read once a step; keep them on a faster disk (HF_HOME)",
            Bytes(read.bytes_per_s as u64)
        ));
    }
    if !found.disk.writable {
        let folder = found.disk.folder.display();
        list.push(format!("{folder} cannot be written, so nothing can be pulled; name another folder in HF_HOME"));
    }
    if found.hub.offline {
        list.push("HF_HUB_OFFLINE is set, so nothing can be pulled; unset it for `steadydance models pull`".to_owned());
    }
    if !found.hub.models.iter().any(|name| name == "dwpose") {
        list.push(
            "poses of people in plain videos need DWPose; get it with `steadydance models pull dwpose` (351 MB)".into(),
        );
    }
    list
}
