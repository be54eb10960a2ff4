package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	pods     []int
	clients  int
	duration time.Duration // of churn at each rate
	rates    []int         // changes per second
	starts   int
	asks     bool     // have the measured API server write pods, too
	binary   string   // istiod-lite; "" means ours, which is built
	args     []string // for it, beside those it always gets
	env      []string
	profiles string // folder for profiles, "" for none
	json     string // file for everything that was measured, "" for none
	store    string // page whose table is rewritten, "" for none
}

func parseOptions(args []string) (options, error) {
	o := options{rates: []int{20, 100}}
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	pods := flags.String("pods", "2000,10000,100000", "sizes of the cluster, in pods, separated by commas; services are a tenth of that, policies a twentieth")
	flags.IntVar(&o.clients, "clients", 100, "scripted proxies, one of which is stuck")
	flags.DurationVar(&o.duration, "duration", 20*time.Second, "duration of churn at each rate")
	flags.IntVar(&o.starts, "starts", 3, "starts of the control plane, whose median counts")
	flags.BoolVar(&o.asks, "ask", false, "have the API server change pods, which costs it 9 ms of CPU each, instead of doing what another replica would")
	flags.StringVar(&o.binary, "istiod", "", "`path` of an istiod-lite to measure instead of building one")
	flags.Func("arg", "`argument` for the control plane; may be repeated", func(text string) error { o.args = append(o.args, text); return nil })
	flags.Func("env", "`NAME=value` for the control plane; may be repeated", func(text string) error { o.env = append(o.env, text); return nil })
	flags.StringVar(&o.profiles, "profile", "", "take CPU and heap profiles of the control plane, into this `folder`")
	flags.StringVar(&o.json, "json", "", "write everything that was measured to this `file`")
	flags.StringVar(&o.store, "store", "", "put the results into the table of this `page`")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for text := range strings.SplitSeq(*pods, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 100 || n > 500000 {
			return o, fmt.Errorf("-pods: %q: want numbers from 100 to 500000", text)
		}
		o.pods = append(o.pods, n)
	}
	if o.clients < 2 || o.clients > 1000 || o.duration < time.Second || o.starts < 1 || flags.NArg() > 0 {
		return o, errors.New("want 2 to 1000 clients, a duration of a second at least, one start at least, and no arguments; see -help")
	}
	return o, nil
}
