//! The live view: the network, who lives, how many records arrive, what happened.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};
use ratatui::{DefaultTerminal, Frame};

use super::traffic::live::Live;
use super::view::Watcher;
use crate::say::say;

const SAMPLE: Duration = Duration::from_millis(50);
const DRAW: Duration = Duration::from_millis(100);
const SAMPLES: usize = 400;

/// A full-screen view; the terminal is given back when it is dropped.
pub(crate) struct Screen {
    terminal: Option<DefaultTerminal>,
    state: State,
    next_sample: Instant,
    next_draw: Instant,
    stop: bool,
}

/// What is drawn.
struct State {
    title: String,
    started: Instant,
    alive: BTreeMap<String, bool>,
    samples: VecDeque<u64>,
    delivered: u64,
    counters: Vec<(&'static str, u64, bool)>,
    log: Vec<String>,
}

impl Screen {
    pub(crate) fn open(title: &str) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            terminal: Some(ratatui::try_init()?),
            state: State::new(title),
            next_sample: now,
            next_draw: now,
            stop: false,
        })
    }

    /// In raw mode Ctrl-C is a key, not a signal.
    fn read_keys(&mut self) {
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else {
                continue;
            };
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            self.stop |= match key.code {
                KeyCode::Char('c') => control,
                KeyCode::Char('q') | KeyCode::Esc => true,
                _ => false,
            };
        }
    }
}

impl Watcher for Screen {
    fn say(&mut self, what: &str) {
        self.state.say(what);
        self.next_draw = Instant::now();
        self.frame(None);
    }

    fn nodes(&mut self, names: &[String]) {
        self.state.alive = names.iter().map(|n| (n.clone(), true)).collect();
    }

    fn down(&mut self, name: &str) {
        self.state.alive.insert(name.to_owned(), false);
    }

    fn up(&mut self, name: &str) {
        self.state.alive.insert(name.to_owned(), true);
    }

    fn frame(&mut self, live: Option<&Live>) {
        let now = Instant::now();
        if let Some(live) = live
            && now >= self.next_sample
        {
            self.next_sample = now + SAMPLE;
            self.state.sample(live);
        }
        if now >= self.next_draw {
            self.next_draw = now + DRAW;
            self.read_keys();
            if let Some(terminal) = &mut self.terminal {
                // A terminal that went away must not end the run.
                let _ = terminal.draw(|frame| self.state.draw(frame));
            }
        }
    }

    fn wants_stop(&mut self) -> bool {
        self.stop
    }

    fn close(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
            for line in &self.state.log {
                say!("{line}");
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
    }
}

impl State {
    fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            started: Instant::now(),
            alive: BTreeMap::new(),
            samples: VecDeque::from(vec![0; SAMPLES]),
            delivered: 0,
            counters: Vec::new(),
            log: Vec::new(),
        }
    }

    fn say(&mut self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.log.push(format!("{seconds:7.2} s  {what}"));
    }

    fn sample(&mut self, live: &Live) {
        let delivered = Live::read(&live.delivered);
        self.samples.pop_front();
        self.samples.push_back(delivered - self.delivered);
        self.delivered = delivered;
        self.counters = vec![
            ("long-lived flows", Live::read(&live.long_ready), false),
            ("records", delivered, false),
            ("new connections", Live::read(&live.opened), false),
            ("completed", Live::read(&live.completed), false),
            ("broken", Live::read(&live.broken), true),
            ("failed to connect", Live::read(&live.failed), true),
            ("mapping changed", Live::read(&live.remapped), true),
        ];
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [network, traffic, counters, log] = Layout::vertical([
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(3),
            Constraint::Min(3),
        ])
        .areas(frame.area());
        let title = format!(
            " {}  {:.1} s ",
            self.title,
            self.started.elapsed().as_secs_f64()
        );
        frame.render_widget(
            Paragraph::new(self.network()).block(Block::bordered().title(title)),
            network,
        );
        self.draw_traffic(frame, traffic);
        let spans: Vec<Span<'_>> = self.counters.iter().flat_map(counter).collect();
        let counted = Paragraph::new(Line::from(spans)).block(Block::bordered());
        frame.render_widget(counted, counters);
        let room = usize::from(log.height.saturating_sub(2));
        let newest = &self.log[self.log.len().saturating_sub(room)..];
        let lines: Vec<Line<'_>> = newest.iter().map(|l| event_line(l)).collect();
        let block = Block::bordered().title(" events (q stops) ");
        frame.render_widget(Paragraph::new(lines).block(block), log);
    }

    fn draw_traffic(&self, frame: &mut Frame<'_>, area: Rect) {
        let room = usize::from(area.width.saturating_sub(2)).min(SAMPLES);
        let newest: Vec<u64> = self.samples.iter().skip(SAMPLES - room).copied().collect();
        let sparkline = Sparkline::default()
            .block(Block::bordered().title(" records delivered per 50 ms "))
            .data(&newest)
            .style(Style::new().fg(Color::Cyan));
        frame.render_widget(sparkline, area);
    }

    fn network(&self) -> Vec<Line<'_>> {
        let dim = |text: &'static str| Span::styled(text, Style::new().fg(Color::DarkGray));
        let mut store = vec![dim("      store   ")];
        for name in ["r1", "r2", "r3", "seq"] {
            store.extend([self.node(name), dim("   ")]);
        }
        vec![
            Line::from(vec![
                dim("                     ┌─── "),
                self.node("gw1"),
                dim(" ───┐"),
            ]),
            Line::from(vec![
                Span::raw("  client "),
                dim("─── "),
                self.node("sw"),
                dim(" ───┤                   ├─── "),
                self.node("sw"),
                dim(" ─── "),
                Span::raw("server"),
            ]),
            Line::from(vec![
                dim("                     └─── "),
                self.node("gw2"),
                dim(" ───┘"),
            ]),
            Line::default(),
            Line::from(store),
        ]
    }

    /// Fixed width, so that the drawing holds.
    fn node(&self, name: &str) -> Span<'static> {
        let (mark, colour) = match self.alive.get(name) {
            Some(true) => ("●", Color::Green),
            Some(false) => ("✗", Color::Red),
            None => ("○", Color::DarkGray),
        };
        let label = match name {
            "gw1" | "gw2" => format!("{mark} {name:<7}"),
            _ => format!("{mark} {name}"),
        };
        Span::styled(label, Style::new().fg(colour).add_modifier(Modifier::BOLD))
    }
}

fn counter(item: &(&'static str, u64, bool)) -> [Span<'static>; 2] {
    let (name, value, bad) = *item;
    let colour = match (bad, value) {
        (true, 0) => Color::Green,
        (true, _) => Color::Red,
        (false, _) => Color::White,
    };
    let style = Style::new().fg(colour).add_modifier(Modifier::BOLD);
    [
        Span::styled(format!(" {value}"), style),
        Span::raw(format!(" {name}  ")),
    ]
}

fn event_line(text: &str) -> Line<'_> {
    let killed = text.contains("SIGKILL") || text.contains("ended by itself");
    let style = if killed {
        Style::new().fg(Color::Red)
    } else {
        Style::new()
    };
    Line::styled(text, style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn a_killed_node_is_marked_and_the_log_is_shown() {
        let mut state = State::new("test");
        state.alive = [("gw1".to_owned(), false), ("gw2".to_owned(), true)].into();
        state.say("SIGKILL gw1");
        state.sample(&Live::new());
        let mut terminal = Terminal::new(TestBackend::new(100, 30)).expect("backend");
        terminal.draw(|frame| state.draw(frame)).expect("draw");
        let text = terminal.backend().to_string();
        for part in ["✗ gw1", "● gw2", "○ r1", "SIGKILL gw1", "0 broken"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn a_tiny_terminal_is_no_reason_to_panic() {
        let state = State::new("test");
        let mut terminal = Terminal::new(TestBackend::new(3, 2)).expect("backend");
        terminal.draw(|frame| state.draw(frame)).expect("draw");
    }
}
