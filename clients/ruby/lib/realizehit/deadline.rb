# frozen_string_literal: true

require_relative "clock"

module Realizehit
  # Until when a socket is waited for.
  #
  # @api private
  class Deadline
    # @param seconds [Numeric]
    # @param interrupt [IO, nil] ends a wait when it can be read
    def initialize(seconds, interrupt = nil)
      @time = Clock.now + seconds
      @interrupt = interrupt
    end

    # Returns a deadline for a part of what is left.
    #
    # @param count [Integer] of how many equal parts
    def part(count)
      Deadline.new([@time - Clock.now, 0].max / count, @interrupt)
    end

    # Waits until a socket can be read or written, as an operation asked that would have blocked.
    #
    # @param wanted [Symbol] :wait_readable or :wait_writable
    # @raise [Errno::ETIMEDOUT]
    # @raise [IOError] if the wait was interrupted
    def wait(socket, wanted)
      left = @time - Clock.now
      writing = wanted == :wait_writable
      readers = [(socket unless writing), @interrupt].compact
      ready = left.positive? && IO.select(readers, writing ? [socket] : nil, nil, left)
      raise Errno::ETIMEDOUT unless ready
      raise IOError, "the client was closed" if ready.first.include?(@interrupt)
    end
  end
  private_constant :Deadline
end
