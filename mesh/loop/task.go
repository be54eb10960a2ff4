package loop

// Task is something to do once in a turn, however often it is queued. Set Run before the first use.
type Task struct {
	Run    func()
	queued bool
}

// Input queues a task among those that bring bytes in. Queued by such a task, it runs in the next turn.
func (l *Loop) Input(t *Task) { l.inputs.push(t) }

// Output queues a task among those that send what the turn has brought about. Queued by such a task, it runs in the next turn.
func (l *Loop) Output(t *Task) { l.outputs.push(t) }

// queue holds the tasks of one kind. Two lists take turns, so that a task which is queued again waits for all others.
type queue struct {
	waiting, running []*Task
}

func (q *queue) empty() bool { return len(q.waiting) == 0 }

func (q *queue) push(t *Task) {
	if !t.queued {
		t.queued = true
		q.waiting = append(q.waiting, t)
	}
}

func (q *queue) run() {
	if len(q.waiting) == 0 {
		return
	}
	q.waiting, q.running = q.running[:0], q.waiting
	for i, t := range q.running {
		q.running[i] = nil
		t.queued = false
		t.Run()
	}
}
