//! Throughput over concurrency as a picture.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::report::Report;
use super::systems::System;

/// Draws what `report` says of the leader alone on its processor.
pub(super) fn draw(report: &Report, path: &Path) -> Result<()> {
    let series = |system: System| -> Vec<(f64, f64)> {
        let rows = report.lossless_alone(system);
        rows.map(|r| (r.outstanding as f64, r.ops_per_s)).collect()
    };
    let all: Vec<(System, Vec<(f64, f64)>)> =
        System::ALL.into_iter().map(|s| (s, series(s))).collect();
    let points = || all.iter().flat_map(|(_, points)| points);
    let (right, top) = points().fold((1.0, 1.0), |(x, y): (f64, f64), p| (x.max(p.0), y.max(p.1)));
    let bottom = points().fold(top, |y, p| y.min(p.1.max(1.0)));
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Puts a second, three replicas", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (0.9..right * 1.1).log_scale(),
                (bottom * 0.7..top * 1.5).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc("operations outstanding")
            .y_desc("operations a second")
            .draw()?;
        for (n, (system, points)) in all.iter().enumerate().filter(|(_, (_, p))| !p.is_empty()) {
            let colour = Palette99::pick(n).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour).point_size(3))?
                .label(system.name())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    };
    draw()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", path.display()))
}
