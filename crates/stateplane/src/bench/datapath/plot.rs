//! Packets a second over flows as a picture: one processor for all, and one for the device.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::device::Device;
use super::placement::Placement;
use super::report::Report;
use super::{Part, SMALL};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws the rates of small frames.
pub(super) fn draw(report: &Report, path: &Path) -> Result<()> {
    let has_rates = report
        .rows
        .iter()
        .any(|row| row.figures.contains_key("pps"));
    ensure!(
        has_rates,
        "there are no rates to draw: --only inline,cross measures some"
    );
    let area = SVGBackend::new(path, (1280, 600)).into_drawing_area();
    let draw = || -> Drawn {
        area.fill(&WHITE)?;
        let halves = area.split_evenly((1, 2));
        for (half, placement) in halves.iter().zip([Placement::Inline, Placement::Cross]) {
            panel(half, report, placement)?;
        }
        area.present()?;
        Ok(())
    };
    draw()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", path.display()))
}

fn panel(area: &Area<'_>, report: &Report, placement: Placement) -> Drawn {
    let (part, caption) = match placement {
        Placement::Inline => (
            Part::Inline,
            "64 bytes, generator and device on one processor",
        ),
        Placement::Cross => (
            Part::Cross,
            "64 bytes, the device on a processor of its own",
        ),
    };
    let series = |device: Device| -> Vec<(f64, f64)> {
        let rows = report.rows.iter();
        rows.filter(|r| r.part == part && r.device == device.name() && r.frame_bytes == Some(SMALL))
            .filter_map(|r| Some((f64::from(r.flows), r.figures.get("pps")? / 1e6)))
            .collect()
    };
    let all: Vec<_> = Device::ALL.into_iter().map(|d| (d, series(d))).collect();
    let points = || all.iter().flat_map(|(_, points)| points);
    if points().next().is_none() {
        return Ok(());
    }
    let (right, top) = points().fold((1.0_f64, 0.01_f64), |(x, y), p| (x.max(p.0), y.max(p.1)));
    let bottom = points().fold(top, |y, p| y.min(p.1.max(0.001)));
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (0.9..right * 1.1).log_scale(),
            (bottom * 0.7..top * 2.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("flows")
        .y_desc("million packets a second")
        .draw()?;
    for (n, (device, points)) in all.iter().enumerate().filter(|(_, (_, p))| !p.is_empty()) {
        let ours = matches!(device, Device::StateplaneFast | Device::StateplaneSlow);
        let colour = Palette99::pick(n).stroke_width(if ours { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour).point_size(3))?
            .label(device.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
