package main

import (
	"context"
	"time"

	"sotto/node/sim"
)

// coreInputs is how many inputs the pure core of a conversation takes in a second.
func coreInputs(ctx context.Context, l *lab) (sample, error) {
	s, err := goBench("node/conversation", "CoreInputs")(ctx, l)
	if err != nil {
		return sample{}, err
	}
	return sample{value: 1e6 / s.value}, nil
}

// world plays one of 200 devices.
func world(ctx context.Context, _ *lab) (sample, error) {
	began := time.Now()
	_, err := sim.Run(ctx, sim.Options{Devices: sim.MaxDevices, Seed: 1})
	return sample{value: time.Since(began).Seconds()}, err
}
