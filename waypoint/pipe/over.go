package pipe

import "github.com/tulle-mesh/tulle/mesh/loop"

// Carrier carries a pipe. It calls the pipe's Received, Ended, Sent and Broken, as pipes do with their users: never within a call by the pipe.
type Carrier = carrier

// Over makes a pipe that something else carries.
func Over(l *loop.Loop, c Carrier) *Pipe {
	p := newPipe(l)
	p.carrier = c
	return p
}
