# frozen_string_literal: true

module Realizehit
  # Delays with full jitter: each is drawn evenly from zero to a bound, which doubles.
  #
  # @api private
  class Backoff
    # @param base [Numeric] the first bound, in seconds
    # @param most [Numeric] the last one
    def initialize(base, most)
      @base = base
      @most = most
      @attempts = 0
    end

    # @return [Float] the next delay, in seconds
    def next
      bound = [@base * (2.0**[@attempts, 30].min), @most].min
      @attempts += 1
      Random.rand * bound
    end

    # Begins with the first bound again.
    def reset
      @attempts = 0
    end
  end
  private_constant :Backoff
end
