//! The order in which the due objects of a kind get their turns, as pure code.
//!
//! Invariants: more urgent objects come first; among equally urgent ones, namespaces take turns, so that a namespace with
//! many objects delays another one by one turn and not by all of its own. Objects that talk to the same place (an App's
//! GitHub, a git server) share a few slots, so that a place that never answers delays nobody else's objects. An object has
//! one turn at a time, and each object waits once.
//!
//! Urgent objects do not keep the others waiting forever: of eight turns, one belongs to the objects whose time has come,
//! and one to those that were never looked at.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// The turns that objects of one place may have at the same time. Small enough to stay far below the 100 concurrent
/// requests that GitHub's secondary limits allow an App.
const SLOTS_OF_A_PLACE: usize = 8;

/// How urgent a look is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// GitHub announced something, or a push is under way.
    Delivery,
    /// The object, or another one that it depends on, changed.
    Change,
    /// Its time has come: a renewal, a poll, or a retry.
    Time,
    /// This process has not looked at it yet.
    First,
}

impl Urgency {
    const ALL: [Self; 4] = [Self::Delivery, Self::Change, Self::Time, Self::First];

    /// The order of one turn of eight.
    fn order(turn: u64) -> [Self; 4] {
        match turn % 8 {
            3 => [Self::Time, Self::Delivery, Self::Change, Self::First],
            7 => [Self::First, Self::Delivery, Self::Change, Self::Time],
            _ => Self::ALL,
        }
    }
}

/// The name of an object of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: Option<String>,
    pub name: String,
}

/// The places that a turn takes a slot of.
pub type Places = Vec<String>;

/// A turn that was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    pub name: Name,
    pub places: Places,
    pub urgency: Urgency,
}

/// Whether a turn looked at its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    Yes,
    /// It could not, for example because the App is not known yet. The next turn is as urgent as this one was.
    NotYet,
}

/// The objects that wait for a turn, and those that have one.
#[derive(Debug, Default)]
pub struct Turns {
    /// Those that fired and for which no slot was looked for yet.
    fired: Waiting,
    /// Those that wait for a slot, by the place whose slots are taken.
    held: BTreeMap<String, Waiting>,
    waiting: HashMap<Name, Spot>,
    /// Those that have a turn, and how urgent another one is, if they fired meanwhile.
    busy: HashMap<Name, Option<Urgency>>,
    /// The number of turns at each place.
    slots: HashMap<String, usize>,
    /// The objects that were looked at.
    known: HashSet<Name>,
    /// How urgent the last turn was of those that were not looked at in it.
    unserved: HashMap<Name, Urgency>,
    /// The number of the next object that waits.
    next: u64,
    /// The number of turns that were given.
    given: u64,
}

/// Where an object waits.
#[derive(Clone, Debug)]
struct Spot {
    /// `None`: no slot was looked for yet.
    place: Option<String>,
    urgency: Urgency,
    number: u64,
}

/// Objects that wait, by urgency.
#[derive(Debug, Default)]
struct Waiting([Fair; Urgency::ALL.len()]);

/// Objects that are equally urgent. Namespaces take turns.
#[derive(Debug, Default)]
struct Fair {
    by_namespace: HashMap<Option<String>, BTreeMap<u64, Name>>,
    /// Each namespace of the map once, the next one first.
    rotation: VecDeque<Option<String>>,
    len: usize,
}

impl Fair {
    fn insert(&mut self, number: u64, name: Name) {
        let namespace = name.namespace.clone();
        let objects = self.by_namespace.entry(namespace.clone()).or_insert_with(|| {
            self.rotation.push_back(namespace);
            BTreeMap::new()
        });
        self.len += usize::from(objects.insert(number, name).is_none());
    }

    /// A namespace without objects leaves the rotation when its turn comes.
    fn remove(&mut self, number: u64, name: &Name) {
        let removed = self.by_namespace.get_mut(&name.namespace).and_then(|objects| objects.remove(&number));
        self.len -= usize::from(removed.is_some());
    }

    fn pop(&mut self) -> Option<Name> {
        while let Some(namespace) = self.rotation.pop_front() {
            let objects = self.by_namespace.get_mut(&namespace);
            let popped = objects.and_then(|objects| Some((objects.pop_first()?.1, objects.is_empty())));
            match popped {
                Some((name, false)) => {
                    self.rotation.push_back(namespace);
                    self.len -= 1;
                    return Some(name);
                }
                Some((name, true)) => {
                    self.by_namespace.remove(&namespace);
                    self.len -= 1;
                    return Some(name);
                }
                None => drop(self.by_namespace.remove(&namespace)),
            }
        }
        None
    }
}

impl Waiting {
    fn of(&mut self, urgency: Urgency) -> &mut Fair {
        &mut self.0[urgency as usize]
    }

    fn has(&self, urgency: Urgency) -> bool {
        self.0[urgency as usize].len > 0
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|fair| fair.len == 0)
    }
}

impl Turns {
    /// Has an object wait for a turn. `urgency`: `None` for a change, which is a first look at an object that was not
    /// looked at yet.
    pub fn fire(&mut self, name: Name, urgency: Option<Urgency>) {
        let urgency = urgency.unwrap_or(if self.known.contains(&name) { Urgency::Change } else { Urgency::First });
        let urgency = self.unserved.get(&name).map_or(urgency, |unserved| urgency.min(*unserved));
        if let Some(again) = self.busy.get_mut(&name) {
            *again = Some(again.map_or(urgency, |again| again.min(urgency)));
            return;
        }
        let (place, number) = match self.waiting.get(&name) {
            Some(spot) if spot.urgency <= urgency => return,
            Some(spot) => {
                let spot = spot.clone();
                self.among(spot.place.as_deref()).of(spot.urgency).remove(spot.number, &name);
                (spot.place, spot.number)
            }
            None => {
                self.next += 1;
                (None, self.next)
            }
        };
        self.wait(name, Spot { place, urgency, number });
    }

    fn wait(&mut self, name: Name, spot: Spot) {
        self.among(spot.place.as_deref()).of(spot.urgency).insert(spot.number, name.clone());
        self.waiting.insert(name, spot);
    }

    fn among(&mut self, place: Option<&str>) -> &mut Waiting {
        match place {
            None => &mut self.fired,
            Some(place) => self.held.entry(place.to_owned()).or_default(),
        }
    }

    /// Removes everything about an object. A turn that it has goes on.
    pub fn forget(&mut self, name: &Name) {
        if let Some(spot) = self.waiting.remove(name) {
            self.among(spot.place.as_deref()).of(spot.urgency).remove(spot.number, name);
        }
        if let Some(again) = self.busy.get_mut(name) {
            *again = None;
        }
        self.known.remove(name);
        self.unserved.remove(name);
    }

    /// Gives the next turn. `places`: the places that an object talks to; `None` if there is no such object, which is
    /// forgotten and handed to `gone`.
    pub fn take(&mut self, places: impl Fn(&Name) -> Option<Places>, mut gone: impl FnMut(&Name)) -> Option<Given> {
        loop {
            let (place, urgency) = self.next()?;
            let name = self.among(place.as_deref()).of(urgency).pop()?;
            let number = self.waiting.remove(&name).map_or(0, |spot| spot.number);
            let Some(places) = places(&name) else {
                self.forget(&name);
                gone(&name);
                continue;
            };
            if let Some(full) = places.iter().find(|place| !self.has_slot(place)) {
                self.wait(name, Spot { place: Some(full.clone()), urgency, number });
                continue;
            }
            for place in &places {
                *self.slots.entry(place.clone()).or_default() += 1;
            }
            self.busy.insert(name.clone(), None);
            self.given += 1;
            return Some(Given { name, places, urgency });
        }
    }

    /// Where the next object waits that may have a turn: those that waited for a slot come first.
    fn next(&self) -> Option<(Option<String>, Urgency)> {
        let with_slot = || self.held.iter().filter(|(place, _)| self.has_slot(place));
        Urgency::order(self.given).into_iter().find_map(|urgency| {
            let held = with_slot().find(|(_, waiting)| waiting.has(urgency)).map(|(place, _)| Some(place.clone()));
            held.or_else(|| self.fired.has(urgency).then_some(None)).map(|place| (place, urgency))
        })
    }

    fn has_slot(&self, place: &str) -> bool {
        self.slots.get(place).is_none_or(|taken| *taken < SLOTS_OF_A_PLACE)
    }

    /// Ends a turn. The object waits for another one if it fired meanwhile.
    pub fn finish(&mut self, given: Given, served: Served) {
        let Given { name, places, urgency } = given;
        for place in places {
            if let Some(taken) = self.slots.get_mut(&place) {
                *taken -= 1;
                if *taken == 0 {
                    self.slots.remove(&place);
                }
            }
            if self.held.get(&place).is_some_and(Waiting::is_empty) {
                self.held.remove(&place);
            }
        }
        match served {
            Served::Yes => {
                self.unserved.remove(&name);
                self.known.insert(name.clone());
            }
            Served::NotYet => {
                let unserved = self.unserved.entry(name.clone()).or_insert(urgency);
                *unserved = urgency.min(*unserved);
            }
        }
        if let Some(Some(again)) = self.busy.remove(&name) {
            self.fire(name, Some(again));
        }
    }

    /// The number of objects that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.busy.values().flatten().count()
    }

    /// Whether nothing is left of any object.
    #[cfg(test)]
    pub fn is_clear(&self) -> bool {
        self.len() == 0 && self.known.is_empty() && self.unserved.is_empty() && self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Urgency::{Change, Delivery, First, Time};

    fn name(namespace: &str, name: impl Into<String>) -> Name {
        Name { namespace: Some(namespace.to_owned()), name: name.into() }
    }

    fn shown(given: &Given) -> String {
        format!("{}/{}", given.name.namespace.as_deref().unwrap_or_default(), given.name.name)
    }

    /// Takes a turn at one place and ends it.
    fn one(turns: &mut Turns) -> Option<String> {
        let given = turns.take(|_| Some(vec!["github".to_owned()]), |_| ())?;
        let shown = shown(&given);
        turns.finish(given, Served::Yes);
        Some(shown)
    }

    fn all(turns: &mut Turns) -> Vec<String> {
        std::iter::from_fn(|| one(turns)).collect()
    }

    #[test]
    fn deliveries_come_before_polls_and_polls_before_first_looks() {
        let mut turns = Turns::default();
        for number in 0..2000 {
            turns.fire(name("b", format!("new-{number}")), None);
            turns.fire(name("b", format!("poll-{number}")), Some(Time));
        }
        turns.fire(name("a", "changed"), Some(Change));
        turns.fire(name("a", "pushed"), Some(Delivery));
        let order = all(&mut turns);
        assert_eq!(order.len(), 4002);
        assert_eq!(order[..2], ["a/pushed", "a/changed"]);
        let polled = order.iter().rposition(|name| name.contains("poll")).unwrap();
        let first_looks = order[..polled].iter().filter(|name| name.contains("new")).count();
        assert!((200..=300).contains(&first_looks), "{first_looks}: one turn of eight is theirs");
    }

    #[test]
    fn a_namespace_with_many_objects_delays_another_one_by_a_turn() {
        let mut turns = Turns::default();
        for number in 0..2000 {
            turns.fire(name("b", number.to_string()), Some(Time));
        }
        for _ in 0..100 {
            one(&mut turns);
        }
        for number in 0..3 {
            turns.fire(name("a", number.to_string()), Some(Time));
        }
        turns.fire(name("c", "0"), Some(Time));
        let order = all(&mut turns);
        let place = |object: &str| order.iter().position(|name| name == object).unwrap();
        assert!(place("a/0") <= 2 && place("c/0") <= 3 && place("a/2") <= 8, "{:?}", &order[..10]);
    }

    #[test]
    fn deliveries_without_end_leave_a_turn_of_eight_to_polls_and_to_first_looks() {
        let mut turns = Turns::default();
        turns.fire(name("a", "poll"), Some(Time));
        turns.fire(name("a", "new"), None);
        let mut order = Vec::new();
        for number in 0..16 {
            turns.fire(name("b", number.to_string()), Some(Delivery));
            order.extend(one(&mut turns));
        }
        assert!(order.contains(&"a/poll".to_owned()) && order.contains(&"a/new".to_owned()), "{order:?}");
    }

    #[test]
    fn a_place_that_never_answers_takes_its_own_slots_alone() {
        let mut turns = Turns::default();
        for number in 0..100 {
            turns.fire(name("b", number.to_string()), Some(Delivery));
        }
        turns.fire(name("a", "shop"), Some(Time));
        let place = |name: &Name| Some(vec![if name.name == "shop" { "github" } else { "hangs" }.to_owned()]);
        let given: Vec<_> = std::iter::from_fn(|| turns.take(place, |_| ())).collect();
        assert_eq!(given.len(), SLOTS_OF_A_PLACE + 1);
        assert!(given.iter().any(|given| given.name.name == "shop"));
        // A slot that becomes free is given to the next of those that wait for it.
        let mut given = given.into_iter();
        turns.finish(given.next().unwrap(), Served::Yes);
        assert_eq!(turns.take(place, |_| ()).unwrap().name, name("b", "8"));
        assert_eq!(turns.take(place, |_| ()), None);
        assert_eq!(turns.len(), 91);
    }

    #[test]
    fn an_object_that_needs_two_places_waits_for_both() {
        let mut turns = Turns::default();
        for number in 0..20 {
            turns.fire(name("b", number.to_string()), Some(Time));
        }
        // Each has a host of its own, and they share what the namespace may have.
        let places = |name: &Name| Some(vec![format!("host {}", name.name), "namespace b".to_owned()]);
        let given: Vec<_> = std::iter::from_fn(|| turns.take(places, |_| ())).collect();
        assert_eq!(given.len(), SLOTS_OF_A_PLACE);
        for given in given {
            turns.finish(given, Served::Yes);
        }
        assert_eq!(std::iter::from_fn(|| turns.take(places, |_| ())).count(), SLOTS_OF_A_PLACE);
    }

    #[test]
    fn an_object_waits_once_has_one_turn_at_a_time_and_becomes_more_urgent() {
        let mut turns = Turns::default();
        turns.fire(name("a", "other"), Some(Change));
        turns.fire(name("a", "shop"), Some(Time));
        turns.fire(name("a", "shop"), Some(Delivery));
        turns.fire(name("a", "shop"), Some(Time));
        assert_eq!(turns.len(), 2);
        let given = turns.take(|_| Some(Vec::new()), |_| ()).unwrap();
        assert_eq!((shown(&given).as_str(), given.urgency), ("a/shop", Delivery));
        turns.fire(name("a", "shop"), Some(Time));
        turns.fire(name("a", "shop"), Some(Delivery));
        assert_eq!(one(&mut turns).as_deref(), Some("a/other"));
        assert_eq!((one(&mut turns), turns.len()), (None, 1), "it has a turn");
        turns.finish(given, Served::Yes);
        assert_eq!(turns.take(|_| Some(Vec::new()), |_| ()).unwrap().urgency, Delivery);
    }

    #[test]
    fn a_turn_that_could_not_look_leaves_the_next_one_as_urgent() {
        let mut turns = Turns::default();
        let mut urgencies = Vec::new();
        turns.fire(name("a", "pushed"), Some(Delivery));
        turns.fire(name("a", "new"), None);
        for served in [Served::NotYet, Served::NotYet, Served::Yes, Served::Yes] {
            while let Some(given) = turns.take(|_| Some(Vec::new()), |_| ()) {
                urgencies.push(given.urgency);
                turns.finish(given, served);
            }
            turns.fire(name("a", "new"), None);
            turns.fire(name("a", "pushed"), None);
        }
        assert_eq!(urgencies, [Delivery, First, Delivery, First, Delivery, First, Change, Change]);
    }

    #[test]
    fn a_forgotten_object_leaves_nothing_behind() {
        let mut turns = Turns::default();
        turns.fire(name("a", "gone"), Some(Time));
        turns.fire(name("a", "busy"), Some(Delivery));
        turns.fire(name("a", "deleted"), Some(Time));
        let busy = turns.take(|_| Some(vec!["github".to_owned()]), |_| ()).unwrap();
        turns.fire(name("a", "busy"), Some(Time));
        turns.forget(&name("a", "busy"));
        turns.forget(&name("a", "deleted"));
        let mut gone = Vec::new();
        assert_eq!(turns.take(|_| None, |name| gone.push(name.name.clone())), None);
        assert_eq!(gone, ["gone"]);
        turns.finish(busy, Served::NotYet);
        turns.forget(&name("a", "busy"));
        assert!(turns.is_clear());
    }
}
