//! The people of a clip: who is who, and who is to be followed.

pub(crate) mod body;
mod choice;
mod track;

use std::ops::Range;

pub use choice::PersonChoice;
pub use track::{MAX_PEOPLE, Shot, Track, TrackOptions, track};

use crate::keypoints::{PoseClip, WholeBody};
use crate::{PoseError, Result};

/// With a choice by place, tracks with less than this part of the longest track's sightings do not count: a ghost at the
/// edge of two frames is not the person on the left.
const LEAST_PRESENCE: f64 = 0.25;

/// With [`PersonChoice::All`], whoever is seen in fewer frames of a longer shot is taken for a ghost.
const LEAST_SIGHTINGS: usize = 3;

/// With [`PersonChoice::All`], this many people are drawn at most, the largest.
pub const MAX_ROLES: usize = 16;

/// Most frames for which somebody may be lost and still be known again, however many frames a second there are.
const MOST_LOST: f64 = 120.0;

/// How people are known again from frame to frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// By where they are and how they move, see [`track`].
    #[default]
    Tracked,
    /// By their place in each frame's list, as upstream: whoever scores highest is person 0, so that the person may change
    /// from one frame to the next.
    ListOrder,
}

/// Someone to be drawn: in each frame the place in that frame's list of people, or nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// One entry a frame.
    pub sightings: Vec<Option<usize>>,
}

/// Who is drawn, and what was found on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    /// Never empty. The first is the main role: the one person chosen or, of all, the largest of every shot.
    pub roles: Vec<Role>,
    /// The stretches between cuts.
    pub shots: Vec<Range<usize>>,
    /// Tracks in all shots together, followed or not.
    pub tracks: usize,
    /// How often the main role goes over to somebody else between two cuts. Only [`Identity::ListOrder`] lets it.
    pub switches: usize,
}

/// Finds the people to be drawn. The choice is made anew in every shot, since nothing tells who is who across a cut.
///
/// # Errors
/// [`PoseError::NoPerson`] if no shot has the person.
pub fn cast(clip: &PoseClip, choice: PersonChoice, identity: Identity, score_threshold: f64) -> Result<Cast> {
    // A second: a turn behind somebody else, or the detector's weak moment.
    let max_gap = clip.fps.round().clamp(1.0, MOST_LOST) as usize;
    let tracked = track(clip, TrackOptions { max_gap, score_threshold });
    let in_order = [list_order(clip)];
    let shots: &[Shot] = match identity {
        Identity::Tracked => &tracked,
        Identity::ListOrder => &in_order,
    };
    let mut main = Role { sightings: vec![None; clip.frames.len()] };
    let mut others: Vec<(f64, &Track)> = Vec::new();
    for shot in shots {
        let candidates: Vec<Candidate> =
            shot.tracks.iter().map(|track| Candidate::of_track(clip, track, score_threshold)).collect();
        let Some(chosen) = choice.pick(&candidates, clip.width.into()) else {
            continue;
        };
        main.add(&shot.tracks[chosen]);
        if choice == PersonChoice::All {
            let enough = LEAST_SIGHTINGS.min(shot.frames.len());
            let rest = candidates.iter().zip(&shot.tracks).enumerate().filter(|(i, _)| *i != chosen);
            let rest = rest.map(|(_, (candidate, track))| (candidate.area, track));
            others.extend(rest.filter(|(_, track)| track.sightings.len() >= enough));
        }
    }
    if main.sightings.iter().all(Option::is_none) {
        let people = shots.iter().map(|shot| shot.tracks.len()).max().unwrap_or(0);
        return Err(PoseError::NoPerson { person: choice, people, frames: clip.frames.len() });
    }
    others.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    others.truncate(MAX_ROLES - 1);
    others.sort_by_key(|(_, track)| track.sightings.first().copied());
    let role = |(_, track): (f64, &Track)| {
        let mut role = Role { sightings: vec![None; clip.frames.len()] };
        role.add(track);
        role
    };
    let others = others.into_iter().map(role);
    Ok(Cast {
        switches: switches(&main, &tracked),
        roles: std::iter::once(main).chain(others).collect(),
        tracks: tracked.iter().map(|shot| shot.tracks.len()).sum(),
        shots: tracked.into_iter().map(|shot| shot.frames).collect(),
    })
}

/// How often a role changes tracks within a shot.
fn switches(role: &Role, shots: &[Shot]) -> usize {
    let in_shot = |shot: &Shot| {
        let mut track_of = vec![None; shot.frames.len()];
        for (id, track) in shot.tracks.iter().enumerate() {
            for &(frame, person) in &track.sightings {
                if role.sightings[frame] == Some(person) {
                    track_of[frame - shot.frames.start] = Some(id);
                }
            }
        }
        let known: Vec<usize> = track_of.into_iter().flatten().collect();
        known.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    shots.iter().map(in_shot).sum()
}

/// The people of a picture that a choice means, the main one first: one of them or, for [`PersonChoice::All`], everyone
/// by falling area. `index` is what [`PersonChoice::Index`] means here.
///
/// # Errors
/// [`PoseError::NoReferencePerson`].
pub fn choose_in_picture(
    people: &[WholeBody],
    choice: PersonChoice,
    index: usize,
    width: u32,
    score_threshold: f64,
) -> Result<Vec<usize>> {
    let choice = if let PersonChoice::Index(_) = choice { PersonChoice::Index(index) } else { choice };
    let candidates: Vec<Candidate> =
        people.iter().map(|person| Candidate::of_person(person, score_threshold)).collect();
    let missing = PoseError::NoReferencePerson { person: choice, found: people.len() };
    let chosen = choice.pick(&candidates, width.into()).ok_or(missing)?;
    if choice != PersonChoice::All {
        return Ok(vec![chosen]);
    }
    let mut everyone: Vec<usize> = (0..people.len()).collect();
    everyone.sort_by(|&a, &b| candidates[b].area.total_cmp(&candidates[a].area));
    Ok(everyone)
}

impl Role {
    fn add(&mut self, track: &Track) {
        for &(frame, person) in &track.sightings {
            self.sightings[frame] = Some(person);
        }
    }
}

/// What a choice looks at.
struct Candidate {
    /// Sum over the sightings, square pixels.
    area: f64,
    /// Mean over the sightings, pixels.
    x: f64,
    sightings: usize,
}

impl Candidate {
    fn of_person(person: &WholeBody, threshold: f64) -> Self {
        Self { area: body::area(person, threshold), x: body::centre(person, threshold)[0], sightings: 1 }
    }

    fn of_track(clip: &PoseClip, track: &Track, threshold: f64) -> Self {
        let people = track.sightings.iter().map(|&(frame, person)| &clip.frames[frame].people[person]);
        let sum = people.map(|person| Self::of_person(person, threshold)).fold(
            Self { area: 0.0, x: 0.0, sightings: 0 },
            |a, b| Self { area: a.area + b.area, x: a.x + b.x, sightings: a.sightings + 1 },
        );
        Self { x: sum.x / sum.sightings as f64, ..sum }
    }
}

/// Each place of the frames' lists as one track.
fn list_order(clip: &PoseClip) -> Shot {
    let most = clip.frames.iter().map(|frame| frame.people.len()).max().unwrap_or(0);
    let mut tracks = vec![Track::default(); most];
    for (index, frame) in clip.frames.iter().enumerate() {
        for (place, track) in tracks.iter_mut().enumerate().take(frame.people.len()) {
            track.sightings.push((index, place));
        }
    }
    Shot { frames: 0..clip.frames.len(), tracks }
}
