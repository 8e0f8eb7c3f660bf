//! The report as a page: one file, nothing from the network, no scripts.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use html_escape::encode_text;

use super::{EvalReport, Judged, METRICS, Metric};

/// Looks of the page.
const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #8884; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
section { border-top: 2px solid #8886; margin-top: 1.6rem; }
section h2 { margin: .6rem 0 .2rem; font-size: 1.1rem; }
img { max-width: 100%; display: block; }
dl { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .3rem 0 .6rem; }
dl div { display: flex; gap: .4rem; } dt { opacity: .7; } dd { margin: 0; font-variant-numeric: tabular-nums; }
p.warn { border-left: 4px solid #d80; padding-left: .7rem; }
";
/// What stands in a pair's table of all pairs.
const COLUMNS: [&str; 7] = ["psnr_figure", "gain", "psnr", "ssim_figure", "pck", "identity_parts", "jitter"];

/// The page; `sheet` gives the JPEG of a pair.
pub(super) fn page(
    report: &EvalReport,
    sheet: &mut dyn FnMut(&Judged) -> std::io::Result<Vec<u8>>,
) -> std::io::Result<String> {
    let mut html = String::new();
    let title = format!("{}: {} pairs of {}", what(report), report.pairs.len(), report.set_folder);
    let title = encode_text(&title).into_owned();
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    for line in facts(report) {
        let _ = writeln!(html, "<p>{}</p>", encode_text(&line));
    }
    for line in warnings(report) {
        let _ = writeln!(html, "<p class=\"warn\">{}</p>", encode_text(&line));
    }
    summary(&mut html, report);
    let worst_first = report.worst_first();
    overview(&mut html, &worst_first);
    for pair in &worst_first {
        section(&mut html, pair, &sheet(pair)?);
    }
    html.push_str("</body></html>\n");
    Ok(html)
}

/// What was judged.
fn what(report: &EvalReport) -> String {
    match (&report.model, &report.outputs) {
        (Some(model), _) => model.label.clone(),
        (None, Some(folder)) => folder.clone(),
        (None, None) => "videos".to_owned(),
    }
}

fn facts(report: &EvalReport) -> Vec<String> {
    let set = &report.set;
    let mut lines = vec![format!(
        "{}; set: {}, {}, {}x{}, {} of {} frames at {} fps",
        report.program, set.generator, set.split, set.width, set.height, report.num_frames, set.frames, set.fps
    )];
    if let (Some(settings), Some(drive)) = (&report.settings, report.drive) {
        lines.push(format!(
            "driven by {}; {} steps of {}, shift {}, guidance {}, pose guidance {}, seed {}",
            drive.words(),
            settings.num_inference_steps,
            settings.sampler,
            settings.shift,
            settings.guidance_scale,
            settings.pose_guidance_scale,
            settings.seed
        ));
    }
    for lora in report.model.iter().flat_map(|model| &model.loras) {
        lines.push(format!("LoRA {} at strength {}", lora.name, lora.strength));
    }
    if let Some([width, height]) = report.pose.canvas {
        lines.push(format!("poses drawn as on a canvas of the area {width}x{height}"));
    }
    if let Some(driver) = &report.driver {
        lines.push(format!("driving poses found by {} and {}", driver.detector, driver.estimator));
    }
    if let Some(seconds) = report.seconds_per_clip {
        let memory = report.peak_rss_bytes.map_or_else(String::new, |b| format!(", peak memory {} MiB", b >> 20));
        lines.push(format!("{seconds:.1} s a clip{memory}"));
    }
    if let Some(judge) = &report.judge {
        lines.push(format!("joints found by {} and {}", judge.networks.detector, judge.networks.estimator));
    }
    lines
}

fn warnings(report: &EvalReport) -> Vec<String> {
    let mut lines = Vec::new();
    match &report.judge {
        None => lines.push("No pose networks: joints were not judged.".to_owned()),
        Some(judge) if judge.same_as_driver => lines.push(
            "The networks that judge the joints are those that found the driving poses: their mistakes count as right."
                .to_owned(),
        ),
        Some(_) => {}
    }
    if report.model.is_none() {
        lines.push("Ready-made videos: what their compression lost counts as error.".to_owned());
    }
    lines
}

fn summary(html: &mut String, report: &EvalReport) {
    html.push_str("<table><tr><th>metric</th><th class=\"n\">mean</th><th class=\"n\">median</th>");
    html.push_str("<th>unit</th><th>better</th></tr>\n");
    for metric in METRICS {
        let Some(summary) = report.summary.get(metric.key) else { continue };
        let better = match metric.higher_is_better {
            Some(true) => "higher",
            Some(false) => "lower",
            None => "",
        };
        let [mean, median] = [summary.mean, summary.median].map(|v| number(metric, Some(v)));
        let (label, unit) = (encode_text(metric.label), encode_text(metric.unit));
        let _ = writeln!(
            html,
            "<tr><td>{label}</td><td class=\"n\">{mean}</td><td class=\"n\">{median}</td><td>{unit}</td>\
             <td>{better}</td></tr>"
        );
    }
    html.push_str("</table>\n");
}

fn overview(html: &mut String, pairs: &[&Judged]) {
    let columns: Vec<&Metric> = COLUMNS.iter().filter_map(|key| METRICS.iter().find(|m| m.key == *key)).collect();
    html.push_str("<p>Pairs, the worst first:</p><table><tr><th>pair</th>");
    for metric in &columns {
        let _ = write!(html, "<th class=\"n\">{}</th>", encode_text(metric.label));
    }
    html.push_str("</tr>\n");
    for pair in pairs {
        let name = encode_text(&pair.name);
        let _ = write!(html, "<tr><td><a href=\"#{0}\">{1}</a></td>", anchor(pair), name);
        for metric in &columns {
            let _ = write!(html, "<td class=\"n\">{}</td>", number(metric, (metric.of)(&pair.scores)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn section(html: &mut String, pair: &Judged, sheet: &[u8]) {
    let name = encode_text(&pair.name);
    let _ = write!(html, "<section id=\"{}\"><h2>{name}</h2><dl>", anchor(pair));
    for metric in METRICS {
        if let Some(value) = (metric.of)(&pair.scores) {
            let (label, unit) = (encode_text(metric.label), encode_text(metric.unit));
            let _ = write!(html, "<div><dt>{label}</dt><dd>{} {unit}</dd></div>", number(metric, Some(value)));
        }
    }
    html.push_str("</dl>");
    let data = STANDARD.encode(sheet);
    let _ = writeln!(
        html,
        "<img alt=\"reference, driving clip, output and truth\" src=\"data:image/jpeg;base64,{data}\"></section>"
    );
}

/// An id that is safe in an attribute, whatever the name.
fn anchor(pair: &Judged) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_string() } else { format!("_{:x}", c as u32) };
    format!("pair-{}", pair.name.chars().map(safe).collect::<String>())
}

fn number(metric: &Metric, value: Option<f64>) -> String {
    let digits = if metric.unit.is_empty() { 3 } else { 2 };
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
}
