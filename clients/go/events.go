package realizehit

import "sync"

const maxEvents = 4096

// events calls functions one after another, in the order in which they were added, on a goroutine of its own.
type events struct {
	mu      sync.Mutex
	waiting []func()
	closed  bool
	news    chan struct{}
}

func newEvents() *events { return &events{news: make(chan struct{}, 1)} }

// add adds a call. If the program does not return from earlier ones, the oldest that wait are dropped.
func (e *events) add(call func()) {
	e.mu.Lock()
	if len(e.waiting) == maxEvents {
		e.waiting = e.waiting[1:]
	}
	e.waiting = append(e.waiting, call)
	e.mu.Unlock()
	e.wake()
}

func (e *events) wake() {
	select {
	case e.news <- struct{}{}:
	default:
	}
}

// close lets run return once everything that was added before has been called.
func (e *events) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.wake()
}

func (e *events) run() {
	for range e.news {
		for {
			e.mu.Lock()
			calls, closed := e.waiting, e.closed
			e.waiting = nil
			e.mu.Unlock()
			for _, call := range calls {
				guarded(call)
			}
			if len(calls) == 0 {
				if closed {
					return
				}
				break
			}
		}
	}
}
