package h2

const (
	// quantum is how many bytes a stream may send in its turn when others wait: some TLS records, so that bulk costs few system
	// calls, and few enough that a turn takes about a hundred microseconds.
	quantum = 240<<10 - FrameHeaderLen
	// light is up to how many bytes a stream is taken for one that hardly sends, whose turns come before those of bulk.
	light = 16 << 10
	// lightTurns is how many turns of light streams may come before one of bulk that waits.
	lightTurns = 16
)

// schedule is who sends next: streams that have data and an open window, each in turn. A stream that sends little goes before
// those that send much, so that a few bytes don't wait for megabytes.
type schedule struct {
	few, bulk ring
	turns     int // of few since the last of bulk
}

func (q *schedule) empty() bool { return q.few.first == nil && q.bulk.first == nil }

// next returns the stream whose turn it is, or nil, and whether others wait.
func (q *schedule) next() (s *stream, others bool) {
	s, other := q.few.first, q.bulk.first
	if s == nil || (other != nil && q.turns >= lightTurns) {
		s, other = other, s
	}
	return s, other != nil || (s != nil && s.next != nil)
}

func (q *schedule) push(s *stream) {
	if s.heavy {
		q.bulk.push(s)
	} else {
		q.few.push(s)
	}
}

func (q *schedule) remove(s *stream) {
	if s.heavy {
		q.bulk.remove(s)
	} else {
		q.few.remove(s)
	}
}

// sent ends a stream's turn, in which it has sent n bytes.
func (q *schedule) sent(s *stream, n int) {
	q.remove(s)
	if s.heavy {
		q.turns = 0
	} else {
		q.turns++
	}
	s.heavy = n > light
}

// ring is a queue of streams; each sends in turn, then queues again.
type ring struct {
	first, last *stream
}

func (r *ring) push(s *stream) {
	if s.queued {
		return
	}
	s.queued = true
	s.prev, s.next = r.last, nil
	if r.last != nil {
		r.last.next = s
	} else {
		r.first = s
	}
	r.last = s
}

func (r *ring) remove(s *stream) {
	if !s.queued {
		return
	}
	s.queued = false
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		r.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		r.last = s.prev
	}
	s.prev, s.next = nil, nil
}

// Ready says that the stream has data to send. It stays so until AppendData takes some; call it again when there is more.
func (c *Conn) Ready(id uint32) {
	if s := c.streams[id]; s != nil && !s.localEnd {
		s.wants = true
		c.queue(s)
	}
}

// Unready takes Ready back.
func (c *Conn) Unready(id uint32) {
	if s := c.streams[id]; s != nil {
		s.wants = false
		c.ready.remove(s)
	}
}

// Stalled tells that the peer takes no more of the stream's data for now.
func (c *Conn) Stalled(id uint32) bool {
	s := c.streams[id]
	return s != nil && s.send <= 0
}

func (c *Conn) queue(s *stream) {
	if s.wants && s.send > 0 {
		c.ready.push(s)
	}
}

// Next returns the stream whose turn it is and how many bytes of it may be sent as one frame now; 0 means that nothing can be
// sent. It changes nothing: AppendData does.
func (c *Conn) Next() (id uint32, budget int) {
	s, others := c.ready.next()
	if s == nil || c.send <= 0 || c.err != nil {
		return 0, 0
	}
	budget = int(min(s.send, c.send))
	budget = min(budget, int(c.peer.maxFrameSize))
	if others {
		budget = min(budget, quantum)
	}
	return s.id, budget
}

// AppendData appends the header of a DATA frame with n bytes of the stream to dst; the caller puts those bytes after it. n must
// be at most the budget that Next gave. The stream's turn is over: Ready queues it again. end makes it the last frame.
func (c *Conn) AppendData(dst []byte, id uint32, n int, end bool) []byte {
	s := c.streams[id]
	if s == nil || s.localEnd {
		return dst
	}
	s.send -= sendWindow(n)
	c.send -= sendWindow(n)
	c.windows += windowsPerData
	s.wants = false
	c.ready.sent(s, n)
	h := frameHeader{length: uint32(n), kind: frameData, stream: id}
	if end {
		h.flags = flagEndStream
		c.endLocal(s)
	}
	return appendFrameHeader(dst, h)
}
