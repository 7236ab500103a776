//! Operations answered per 10 ms, with what was done, as a picture.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::report::{Case, Report, SPAN};

const WIDTH: u32 = 1000;
const ROW: u32 = 130;

/// Draws every case as a row.
pub(super) fn draw(report: &Report, path: &Path) -> Result<()> {
    let rows = report.cases.len();
    let height = ROW * u32::try_from(rows).context("too many faults for one picture")?;
    let area = SVGBackend::new(path, (WIDTH, height.max(ROW))).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        for (case, part) in report.cases.iter().zip(area.split_evenly((rows, 1))) {
            row(case, &part)?;
        }
        area.present()?;
        Ok(())
    };
    draw()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", path.display()))
}

type Part<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn row(case: &Case, part: &Part<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let counts = case.answers.per(SPAN, case.began, case.spans());
    let top = counts.iter().copied().max().unwrap_or(0).max(1);
    let seconds = case.ended.since(case.began).as_secs_f64().max(0.01);
    let mut chart = ChartBuilder::on(part)
        .caption(case.name(), ("sans-serif", 14))
        .margin(6)
        .x_label_area_size(18)
        .y_label_area_size(36)
        .build_cartesian_2d(0.0..seconds, 0..top + top / 8 + 1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .y_labels(3)
        .x_label_formatter(&|s| format!("{s:.1} s"))
        .draw()?;
    let bars = counts.iter().enumerate().map(|(n, count)| {
        let width = SPAN.as_secs_f64();
        let left = n as f64 * width;
        Rectangle::new([(left, 0), (left + width * 0.9, *count)], BLUE.filled())
    });
    chart.draw_series(bars)?;
    for moment in &case.moments {
        let at = moment.at.since(case.began).as_secs_f64();
        let line = [(at, 0), (at, top + top / 8)];
        chart.draw_series(LineSeries::new(line, RED.stroke_width(1)))?;
        let text = (moment.what.clone(), ("sans-serif", 11));
        let label = Text::new(text.0, (at, top + top / 8), text.1);
        chart.draw_series(std::iter::once(label))?;
    }
    Ok(())
}
