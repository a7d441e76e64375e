package queue

import "testing"

func TestQueueIsAwaitedUntilTheLastWaiterEnds(t *testing.T) {
	q := newQueue(t)
	expect := func(want bool) {
		t.Helper()
		if got, err := q.Awaited(); err != nil || got != want {
			t.Fatalf("awaited is %v, %v, want %v", got, err, want)
		}
	}
	expect(false)
	lock, err := q.Lock() // neither lock is in the way of the other
	must(t, err)
	expect(false)
	endFirst, err := q.Wait()
	must(t, err)
	endSecond, err := q.Wait()
	must(t, err)
	expect(true)
	must(t, lock.Unlock())
	expect(true)
	must(t, endFirst())
	expect(true)
	must(t, endSecond())
	expect(false)
}
