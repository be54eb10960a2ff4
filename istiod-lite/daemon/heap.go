package daemon

import "time"

// calmInterval is how often it is looked whether a burst is over, such as one of all proxies that come back.
const calmInterval = time.Second

// How much the heap may grow before garbage is collected, in percent of what lives. While everything is read for the first
// time, nearly all is garbage and time counts; after that nearly all is the state of the mesh, which stays.
const (
	gcPercentStart = 200
	gcPercentReady = 50
)
