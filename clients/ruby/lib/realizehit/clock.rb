# frozen_string_literal: true

module Realizehit
  # Time that only goes forward.
  #
  # @api private
  module Clock
    module_function

    # @return [Float] seconds since any point in time
    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end
  end
  private_constant :Clock
end
