package Net::RealizeHit::Random;

use v5.36;

our $VERSION = '0.1.0';

# Random bytes of the operating system; where it has no device for them, of Perl.
sub bytes ($count) {
    if ( open my $device, '<:raw', '/dev/urandom' ) {
        my $bytes = q{};
        my $read = sysread $device, $bytes, $count;
        close $device or return;
        return $bytes if defined $read && $read == $count;
    }
    return pack 'C*', map { int rand 256 } 1 .. $count;
}

1;

__END__

=encoding utf8

=head1 NAME

Net::RealizeHit::Random - random bytes

=head1 DESCRIPTION

Internal to L<Net::RealizeHit>.

=head1 FUNCTIONS

=head2 bytes

So many random bytes.

=cut
