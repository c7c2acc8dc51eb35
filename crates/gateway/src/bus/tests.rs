use super::*;
use crate::wire::events::BusState;

fn chats(changes: u64) -> Entry {
    Entry {
        sight: Sight::Everybody,
        state: BusState::Chats(ChatsState { changes }),
    }
}

#[test]
fn what_is_as_before_is_no_change_and_the_course_is_bounded() {
    let mut course = Course::default();
    course.put("a".into(), chats(1));
    course.put("a".into(), chats(1));
    assert_eq!((course.number, course.changes.len()), (1, 1));
    for n in 2..=(BUS_CHANGES_KEPT_MAX as u64 + 10) {
        course.put("a".into(), chats(n));
    }
    assert_eq!(course.changes.len(), BUS_CHANGES_KEPT_MAX);
    assert!(course.reaches(course.number));
    assert!(course.reaches(10), "the eleventh is the first that is here");
    assert!(!course.reaches(9));
    assert!(!course.reaches(course.number + 1), "of another run");
    course.remove("a");
    course.remove("a");
    assert_eq!(course.number, BUS_CHANGES_KEPT_MAX as u64 + 11);
}
