//! Down-sampling: what the numbers of a stretch of time come to.

use serde::Serialize;
use utoipa::ToSchema;

use super::numbers::{self, Damaged};

/// A day in milliseconds.
pub const DAY: i64 = 86_400_000;
/// How long kept windows are, in milliseconds: five minutes, an hour.
pub const WIDTHS: [i64; 2] = [300_000, 3_600_000];
const FORMAT: u8 = 1;

/// The numbers of one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Window {
    /// When it begins, in milliseconds since 1970.
    pub start: i64,
    /// How many samples.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// All together.
    pub sum: f64,
    /// The last.
    pub last: f64,
}

impl Window {
    fn one(start: i64, number: f64) -> Self {
        Self {
            start,
            count: 1,
            min: number,
            max: number,
            sum: number,
            last: number,
        }
    }

    /// With a later one's numbers.
    fn join(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum += later.sum;
        self.last = later.last;
    }

    /// The mean.
    pub fn avg(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Windows as they grow: what is added comes in the order of time.
#[derive(Debug)]
pub struct Windows {
    width: i64,
    windows: Vec<Window>,
}

impl Windows {
    /// Of so many milliseconds, each beginning at a multiple of that since 1970.
    pub fn new(width: i64) -> Self {
        Self {
            width: width.max(1),
            windows: Vec::new(),
        }
    }

    /// Adds a sample.
    pub fn number(&mut self, ts: i64, number: f64) {
        self.window(&Window::one(ts, number));
    }

    /// Adds a narrower window.
    pub fn window(&mut self, window: &Window) {
        let start = window.start.div_euclid(self.width) * self.width;
        match self.windows.last_mut() {
            Some(last) if last.start == start => last.join(window),
            _ => self.windows.push(Window { start, ..*window }),
        }
    }

    /// All of them; where there was nothing is none.
    pub fn done(self) -> Vec<Window> {
        self.windows
    }
}

/// The windows of samples in the order of time.
pub fn of(numbers: impl IntoIterator<Item = (i64, f64)>, width: i64) -> Vec<Window> {
    let mut windows = Windows::new(width);
    for (ts, number) in numbers {
        windows.number(ts, number);
    }
    windows.done()
}

/// Windows whose samples are gone, with late ones added. What was the last of a window stays so.
pub fn add(
    windows: Vec<Window>,
    late: impl IntoIterator<Item = (i64, f64)>,
    width: i64,
) -> Vec<Window> {
    let mut all: std::collections::BTreeMap<i64, Window> =
        windows.into_iter().map(|it| (it.start, it)).collect();
    for (ts, number) in late {
        let start = ts.div_euclid(width) * width;
        let new = Window::one(start, number);
        all.entry(start)
            .and_modify(|window| {
                let last = window.last;
                window.join(&new);
                window.last = last;
            })
            .or_insert(new);
    }
    all.into_values().collect()
}

/// The windows of one day as bytes: a format, how many, a column for each number of a window.
///
/// # Errors
/// If a column can't be packed.
pub fn pack(windows: &[Window], width: i64) -> Result<Vec<u8>, Damaged> {
    let mut bytes = vec![FORMAT];
    bytes.extend(
        u16::try_from(windows.len())
            .unwrap_or(u16::MAX)
            .to_le_bytes(),
    );
    let places = windows.iter().map(|it| it.start.rem_euclid(DAY) / width);
    let places: Vec<u16> = places.map(|n| u16::try_from(n).unwrap_or(0)).collect();
    numbers::put(&mut bytes, &places)?;
    numbers::put(&mut bytes, &column(windows, |it| it.count))?;
    for number in COLUMNS {
        numbers::put(&mut bytes, &column(windows, number))?;
    }
    Ok(bytes)
}

const COLUMNS: [fn(&Window) -> f64; 4] = [|it| it.min, |it| it.max, |it| it.sum, |it| it.last];

fn column<T>(windows: &[Window], number: impl Fn(&Window) -> T) -> Vec<T> {
    windows.iter().map(number).collect()
}

/// What was packed of a day (days since 1970).
///
/// # Errors
/// If the bytes are damaged.
pub fn unpack(bytes: &[u8], day: i64, width: i64) -> Result<Vec<Window>, Damaged> {
    let short = || Damaged("too short".into());
    let (format, bytes) = bytes.split_first().ok_or_else(short)?;
    if *format != FORMAT {
        return Err(Damaged(format!("expected format {FORMAT}, got {format}")));
    }
    let (count, mut bytes) = bytes.split_first_chunk().ok_or_else(short)?;
    let many = usize::from(u16::from_le_bytes(*count));
    let places: Vec<u16> = numbers::take(&mut bytes, many)?;
    let counts: Vec<u64> = numbers::take(&mut bytes, many)?;
    let mut column = || numbers::take::<f64>(&mut bytes, many);
    let (min, max, sum, last) = (column()?, column()?, column()?, column()?);
    let heads = places.into_iter().zip(counts);
    let numbers = min.into_iter().zip(max).zip(sum.into_iter().zip(last));
    let windows = heads
        .zip(numbers)
        .map(|((place, count), ((min, max), (sum, last)))| Window {
            start: day * DAY + i64::from(place) * width,
            count,
            min,
            max,
            sum,
            last,
        });
    Ok(windows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_windows_come_back() {
        let numbers = (0..1000_i64).map(|n| (DAY * 20_000 + n * 70_000, n as f64 / 3.0 - 50.0));
        for width in WIDTHS {
            let windows = of(numbers.clone(), width);
            let packed = pack(&windows, width).unwrap();
            assert_eq!(unpack(&packed, 20_000, width).unwrap(), windows);
            assert!(unpack(&packed[..packed.len() - 1], 20_000, width).is_err());
        }
    }

    #[test]
    fn hours_are_their_twelve_parts_and_late_ones_are_added() {
        let numbers: Vec<(i64, f64)> = (0..240)
            .map(|n| (n * 60_000, f64::from(n as i32)))
            .collect();
        let mut hours = Windows::new(WIDTHS[1]);
        for window in of(numbers.clone(), WIDTHS[0]) {
            hours.window(&window);
        }
        let hours = hours.done();
        assert_eq!(hours, of(numbers, WIDTHS[1]));
        assert_eq!((hours[1].avg(), hours[1].last), (89.5, 119.0));
        let late = [(61 * 60_000, -7.0), (9 * 3_600_000, 1.0)];
        let more = add(hours.clone(), late, WIDTHS[1]);
        assert_eq!(more.len(), 5);
        assert_eq!(
            (more[1].count, more[1].min, more[1].last),
            (61, -7.0, 119.0)
        );
        assert_eq!(more[4], Window::one(9 * 3_600_000, 1.0));
    }
}
