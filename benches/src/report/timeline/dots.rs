//! Thousands of dots as one path, without those that nobody would see.

use std::collections::HashMap;

/// A dot for each point of the drawing that has any; of those on one point the highest on the page, the slowest.
pub fn path_of(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut order: Vec<(i32, i32)> = Vec::new();
    let mut kept: HashMap<(i32, i32), (f64, f64)> = HashMap::new();
    for (x, y) in points {
        let cell = (x.round() as i32, y.round() as i32);
        let dot = kept.entry(cell).or_insert_with(|| {
            order.push(cell);
            (x, y)
        });
        if y < dot.1 {
            *dot = (x, y);
        }
    }
    order.iter().map(|cell| format!("M{:.1} {:.1}h0", kept[cell].0, kept[cell].1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_on_the_same_point_are_drawn_once_and_the_slowest_is_kept() {
        let path = path_of([(10.0, 50.2), (10.1, 49.8), (10.2, 50.0), (10.0, 3.0)].into_iter());
        assert_eq!(path, "M10.1 49.8h0M10.0 3.0h0");
        assert_eq!(path_of([].into_iter()), "");
    }
}
